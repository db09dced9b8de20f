"""A model learns from local data. Knows nothing of rounds, other clients or the network."""
