"""What makes an owner's update safe to share: noise, clipping, accounting and the ledger.

This room imports only ``umbel.errors`` and ``umbel.job`` from the project, and no Flower, so
every mechanism is tested without a network.
"""
