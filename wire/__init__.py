"""What travels between the coordinator and the agents, and how it is checked on arrival.

``requests`` says which messages there are, ``arrays`` how tensors travel, ``packing`` how bytes do.
"""
