"""How a job's strategy shapes an adapter: which tensors it never trains, and whether LoRA gets a core or a
residual.

Tensors of an adapter that no round trains are fixed: each machine makes them of the base model and the
job's seed, and they never travel. A mean of what was trained beside other tensors would mean nothing, so
everybody compares a digest of them before anything is done (``Learner.fixed_digest``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

Trained = Callable[[Mapping[str, tuple[int, ...]]], Collection[str]]
"""Of an adapter's tensors, by name, those that some round trains."""


@dataclass(frozen=True)
class Shaping:
    """As a strategy declares it; this room knows no strategies."""

    key: str = ""
    """What it depends on, in words of its own: verdicts of a probe are filed under it."""
    core: bool = False
    """Whether LoRA's factors are made of the frozen weights, with a core between them (``lora_core``)."""
    trained: Trained | None = None
    """None: all."""
    personal: Trained | None = None
    """Those that each owner trains for itself; None: none."""
    residual: int = 0
    """Most columns of a second pair of factors that only the server moves (``lora_residual``); 0: none."""


PLAIN = Shaping()


def other_fixed(who: str, here: str, wanted: str) -> str:
    """Why nobody takes part whose fixed tensors (SHA-256 `here`) are not the server's (`wanted`)."""
    return (
        f"{who} has fixed adapter tensors that differ from the server's (SHA-256 {here[:12] or 'none'} "
        f"instead of {wanted[:12] or 'none'}), so updates cannot be averaged: install the same versions of "
        "umbel, torch and peft; if the strategy is not Umbel's own, name it in the policy (jobs.strategies)"
    )
