"""The systemd unit of an agent."""

from __future__ import annotations

from ..storage.units import unit
from .home import Home
from .policy import Policy


def systemd_unit(home: Home) -> str:
    """A unit for this owner's folder and this Python; the folder is all that it may write."""
    folder = home.path.resolve()
    data = [path for path in (home.data, home.test_data) if path is not None]
    return unit(
        "agent",
        home.name,
        ["client", "run", str(folder)],
        folder,
        reads=data,
        fetches=Policy.read(home.policy).jobs.hub,
        rules=[
            "# The message in progress is finished first.",
            "TimeoutStopSec=300",
            "# If memory runs out, only the worker dies: the agent starts it again, and answers.",
            "OOMPolicy=continue",
            "# The journals' witness is in memory: it outlives the process, and no backup holds it.",
            f"RuntimeDirectory={home.runtime_folder.name}",
            "RuntimeDirectoryMode=0700",
            "RuntimeDirectoryPreserve=yes",
        ],
    )
