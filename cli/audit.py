"""`umbel audit`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..foreign import say
from .answers import Answer, answers
from .options import RunFolder

MANY = 10_000
"""Canaries."""
_STAGES = {
    "data": "reading and tokenising data",
    "model": "loading the model",
    "canaries": "replaying the training with canaries",
    "mislabelled": "training with wrong labels as canaries",
    "membership": "comparing losses of members and non-members",
    "inversion": "inverting gradients",
}


@answers
def audit(
    run: RunFolder,
    canaries: Annotated[
        int, typer.Option(help="Canaries in the replay: more of them prove more, and take longer.")
    ] = MANY,
    production: Annotated[
        bool,
        typer.Option("--production", help="Audit a run of a deployment (its mechanism only)."),
    ] = False,
) -> Any:
    """Attack a finished run, and hold what leaks beside what it claims.

    Canaries: the training is replayed with examples whose gradients are known, each of them in or
    out by a secret coin. How many coins an attacker guesses from the updates proves, with 95 %
    confidence, that epsilon is at least so much. Above the claim, the claim is wrong.

    Membership: does a record's loss under the final model tell whether it was trained on? An AUC of
    0.5 is guessing.

    Inversion: which texts can be read from one client's update, from the sum that encryption leaves,
    and from either with the run's noise.

    Writes audit.json and audit.html into the run's folder; both quote records of a simulation. It is
    a lower bound and misses small faults. Exits with 1 if the run is not what it claims.
    """
    return attacked(run, canaries, production)


def attacked(run: Path, canaries: int = MANY, production: bool = False) -> Answer:
    """Attack a run, and write down and say what was found."""
    from ..redteam.audit import audit_run
    from ..reports.audit_page import write_audit_page

    found = audit_run(run, canaries=canaries, production=production, tell=_Lines().tell)
    page = write_audit_page(run, found)
    text = [*found["verdict"], "", found["limits"][0], str(page)]
    return Answer(found, text, status=int(bool(found["broken"])))


class _Lines:
    """A line on standard error when a stage begins, and every few seconds while it goes on."""

    def __init__(self) -> None:
        self._stage, self._spoke = "", 0.0

    def tell(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._spoke < 2:
            return
        self._stage, self._spoke = stage, now
        share = f" ({done:,} of {total:,})" if total and done else ""
        say(f"{_STAGES[stage]}{share}", file=sys.stderr, flush=True)
