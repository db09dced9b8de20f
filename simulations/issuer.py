"""Who certifies a simulation: a key made for the run, which is in its folder."""

from __future__ import annotations

import os
from pathlib import Path

from ..certificate.check import KEY
from ..privacy.secagg.keys import Identity
from ..storage.files import write_durably


def run_key(run: Path) -> Identity:
    """The key that signs for a simulation, from the operating system's generator; made once a run."""
    path = run / KEY
    if not path.exists():
        write_durably(path, Identity(os.urandom(64)).to_secret_bytes(), secret=True)
    return Identity(path.read_bytes())
