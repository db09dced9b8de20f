"""Umbel: private, federated fine-tuning of Hugging Face transformers.

A job file describes what is learned (``umbel.job``), a plan says what will run and what it
guarantees (``umbel.planning``), the server coordinates rounds (``umbel.server``), an agent at every
data owner trains under differential privacy (``umbel.client``), and a strategy turns the updates
into the next model (``umbel.strategies``). ``umbel.simulations`` runs all of it on one machine.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
