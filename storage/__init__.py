"""What touches this machine: files that appear whole or not at all, typed documents, processes."""
