"""What the attackers of a simulation may do (``simulation.attack``): one table, by the name in a job.

Their formulas are in ``simulations/attackers.py``, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

AttackName = Literal["label-flip", "sign-flip", "alie", "ipm", "model-replacement"]


@dataclass(frozen=True)
class Attack:
    """One of them."""

    does: str
    """What an attacker does, in words."""
    flips_labels: bool = False
    """Whether it trains on opposite classes."""
    boost: Callable[[int, int], float] = lambda clients, attackers: 1.0
    """``simulation.attack_boost`` if it is not set, for so many clients and attackers."""
    boost_in_words: str = ""
    """Empty if there is nothing to boost."""


ATTACKS: dict[AttackName, Attack] = {
    "label-flip": Attack("train on opposite classes", flips_labels=True),
    "sign-flip": Attack(
        "send the opposite of what they learned",
        boost=lambda clients, attackers: 4.0,
        boost_in_words="4",
    ),
    "alie": Attack(
        "a little is enough: send the mean of all attackers' honest updates, moved by deviations that go "
        "unnoticed",
        boost_in_words="1, times the deviations of its paper",
    ),
    "ipm": Attack(
        "inner product manipulation: send the opposite of the mean of all attackers' honest updates",
        boost=lambda clients, attackers: 0.5,
        boost_in_words="0.5",
    ),
    "model-replacement": Attack(
        "train on opposite classes and send a multiple of it",
        flips_labels=True,
        # So that the mean of all is the lie itself.
        boost=lambda clients, attackers: clients / attackers,
        boost_in_words="clients / attackers",
    ),
}


def in_words() -> str:
    """All of them and what each does, for the job's reference."""
    return "; ".join(f'"{name}", {attack.does}' for name, attack in ATTACKS.items())


def keeping_labels() -> str:
    """Those that leave labels as they are, as a choice in a sentence."""
    *some, last = (f'"{name}"' for name, attack in ATTACKS.items() if not attack.flips_labels)
    return f"{', '.join(some)} or {last}"


def boosts_in_words() -> str:
    """Which boost each has by default, for the job's reference."""
    known = {
        name: attack.boost_in_words for name, attack in ATTACKS.items() if attack.boost_in_words
    }
    return "; ".join(f'for "{name}" {boost}' for name, boost in known.items())
