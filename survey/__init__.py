"""What is in a file that somebody brings: a look before training, which changes and sends nothing."""
