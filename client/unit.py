"""The systemd unit of an agent: started at boot, restarted when it dies, and little else allowed."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from .home import Home


def systemd_unit(home: Home) -> str:
    """A unit file for this owner's folder and this Python; the folder is all that it may write."""
    folder = home.path.resolve()
    python = Path(sys.executable)
    return f"""\
# Put it into /etc/systemd/system/umbel-{home.name}.service, then:
#   systemctl daemon-reload && systemctl enable --now umbel-{home.name}
[Unit]
Description=Umbel agent of {home.name}
After=network-online.target
Wants=network-online.target

[Service]
User={getpass.getuser()}
ExecStart={python} -m umbel.cli client run {_quoted(folder)}
Restart=always
RestartSec=5
# The message in progress is finished first.
TimeoutStopSec=300
KillMode=mixed
# If memory runs out, the worker dies of it alone: the agent starts it again, and answers.
OOMPolicy=continue
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
# The journals' witness lies in memory: it outlives the process, and no backup holds it.
RuntimeDirectory=umbel-{home.name}
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
ReadWritePaths={_quoted(folder)}
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def _quoted(path: Path) -> str:
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
