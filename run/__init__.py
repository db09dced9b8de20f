"""A run on disk: its folder, its events, its checkpoints, and the record that people read."""
