"""Sweeps: tests of everything that there is of a kind, all of it or, where that takes too long, a part.

``UMBEL_SWEEP=third``, as in CI, asks for a third, which a seed draws: ``UMBEL_SEED``, or the date.
"""

import datetime
import math
import os
import random


def seed():
    return os.environ.get("UMBEL_SEED") or datetime.date.today().isoformat()


def drawn(kind, whole):
    """Of the members of a sweep those that are asked for, in their order; each `kind` is drawn on its own."""
    if os.environ.get("UMBEL_SWEEP") != "third":
        return list(whole)
    places = random.Random(f"{kind} {seed()}").sample(range(len(whole)), math.ceil(len(whole) / 3))
    return [whole[place] for place in sorted(places)]
