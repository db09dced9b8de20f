"""Checks of a loaded model: its texts, and the weights that come, must leave each record alone."""
