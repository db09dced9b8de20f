"""Who certifies a simulation: a key made for the run, which lies in its folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..certificate.check import KEY
from ..certificate.seal import seal_head
from ..durable import write_durably
from ..privacy.ledger import Ledger
from ..privacy.secagg.keys import Identity


def run_key(run: Path) -> Identity:
    """The key that signs for a simulation, from the operating system's generator; made once a run."""
    path = run / KEY
    if not path.exists():
        write_durably(path, Identity(os.urandom(64)).to_secret_bytes(), secret=True)
    return Identity(path.read_bytes())


def sealed_heads(key: Identity, ledgers: Path, names: Iterable[str]) -> list[str]:
    """The heads of the virtual owners' ledgers, which a simulation can read; sorted, so unnamed."""
    files = [ledgers / f"{name}.sqlite" for name in names]
    return sorted(seal_head(key, _head(file)) for file in files if file.exists())


def _head(file: Path) -> str:
    with Ledger(file) as ledger:
        return ledger.head()
