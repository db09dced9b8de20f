"""Coordination: who takes part, the round loop, and the trips of a secure sum."""
