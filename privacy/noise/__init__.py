"""Discrete noise, and the grids that it is added on."""
