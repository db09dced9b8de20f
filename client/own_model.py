"""The model that an owner has of its own: the shared part that came, and what its state says of the rest."""

from __future__ import annotations

from ..learning.model import Learner
from ..strategies.contract import APART
from ..wire.arrays import Arrays


def own_model(learner: Learner, shared: Arrays, state: Arrays) -> Arrays:
    """All tensors of an owner's model (float32), by their names.

    shared: the federation's model. state: the owner's, of which zeros are the common start. Of a strategy
    with personal tensors the model is the shared ones and these; of one that trains a whole model apart
    (``Rule.apart``) it is that one. Of any other it is the shared model.
    """
    if any(name.startswith(APART) for name in state):
        return {name: array + state[f"{APART}{name}"] for name, array in learner.initial.items()}
    own = {name: array + state[name] for name, array in learner.personal.items()}
    return {**shared, **own}
