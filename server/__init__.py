"""Coordination: the round loop, checkpoints, and the run folder."""
