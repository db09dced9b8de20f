"""The systemd units of the coordination server, and of the window beside it."""

from __future__ import annotations

from ..consortium.authority import Consortium
from ..storage.units import unit


def window_unit(consortium: Consortium, port: int) -> str:
    """A unit for ``umbel window`` on this port: of its own, so that it and the server end apart."""
    folder = consortium.path.resolve()
    return unit(
        "window",
        consortium.card.name,
        ["window", "--consortium", str(folder), "--port", str(port)],
        folder,
    )


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
