"""The systemd unit of the coordination server."""

from __future__ import annotations

from ..consortium.authority import Consortium
from ..storage.units import unit


def systemd_unit(consortium: Consortium) -> str:
    """A unit for this operator's folder and this Python; the folder is all that it may write."""
    folder = consortium.path.resolve()
    return unit(
        "server",
        consortium.card.name,
        ["server", "--consortium", str(folder)],
        folder,
        fetches=True,
        rules=["TimeoutStopSec=120"],
    )
