"""A strategy of your own in one file: an entry moves as far as the owners agree on its direction.

Put the file where Python finds it, and name it in the job:

    [strategy]
    name = "agreement:Agreement"
    options = { margin = 0.001 }

Each owner's local half votes on every entry with the sign of its own update. The votes are a channel
beside the update: both ride in one sum, so the server sees how many agree, and never who.
"""

from collections.abc import Mapping

import numpy as np

from umbel.strategies import Channel, LocalRule, Rule


class Votes(LocalRule):
    """+1, -1, or 0 for an entry that moved less than the margin."""

    def further(self, update):
        margin = np.float32(self.told["margin"])
        votes = {n: np.sign(array) * (np.abs(array) >= margin) for n, array in update.items()}
        return {"votes": votes}


class Agreement(Rule):
    """w <- w + |mean vote| * mean update."""

    local = Votes

    def __init__(self, margin: float = 0.0) -> None:
        if not margin >= 0:
            raise ValueError(f"margin = {margin} must be 0 or more")
        self._margin = margin
        self._agreed: dict[str, np.ndarray] = {}

    def channels(self, shapes):
        # A vote is 1, and an entry of an update some hundredths: so it travels as 1/64.
        return (Channel("update", shapes), Channel("votes", shapes, reach=64.0))

    def told(self, round_: int) -> Mapping[str, float]:
        return {"margin": self._margin}

    def hear(self, channel: str, name: str, mean: np.ndarray) -> None:
        self._agreed[name] = np.abs(mean)

    def next_model(self, model, mean_update):
        return {n: w + self._agreed.pop(n) * mean_update[n] for n, w in model.items()}
