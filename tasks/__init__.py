"""What a task is, without torch: its columns, adapters, figures, and where its losses are computed."""
