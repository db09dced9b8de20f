"""systemd units: started at boot, restarted when it dies, and little else allowed."""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import DeploymentError

_PRIVATE = (Path("/tmp"), Path("/var/tmp"))


def unit(
    what: str,
    name: str,
    command: Sequence[str],
    folder: Path,
    *,
    reads: Sequence[Path] = (),
    fetches: bool = False,
    rules: Sequence[str] = (),
) -> str:
    """A unit that runs ``umbel`` with these words, as this user; `folder` is all that it may write.

    what: "agent" or "server". name: whose. reads: files outside of the folder that it needs. fetches:
    whether models come from the hub; then they are kept in the folder. rules: further lines of
    [Service]. Raises ``DeploymentError`` if the service could not see something that it needs.
    """
    python = Path(sys.executable)
    for path in (folder, python, *reads):
        if any(path.resolve().is_relative_to(private) for private in _PRIVATE):
            raise DeploymentError(
                f"{path} is in a folder for temporary files, and a service has its own such "
                "folder. Move it to another place, such as /srv, and ask for the unit again."
            )
    file = f"umbel-{what}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}"
    models = os.environ.get("HF_HOME") or (str(folder / "hub") if fetches else None)
    service = [
        f"User={getpass.getuser()}",
        f"ExecStart={' '.join(map(_quoted, (str(python), '-m', 'umbel.cli', *command)))}",
        *([f"Environment={_quoted(f'HF_HOME={models}')}"] if models else []),
        "Restart=always",
        "RestartSec=5",
        "KillMode=mixed",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        "PrivateTmp=yes",
        f"ReadWritePaths={_quoted(str(folder))}",
        "UMask=0077",
        *rules,
    ]
    return f"""\
# Put it into /etc/systemd/system/{file}.service, then:
#   systemctl daemon-reload && systemctl enable --now {file}
[Unit]
Description=Umbel {what} of {name.replace("%", "%%")}
After=network-online.target
Wants=network-online.target

[Service]
{chr(10).join(service)}

[Install]
WantedBy=multi-user.target
"""


def _quoted(text: str) -> str:
    plain = text.replace("%", "%%").replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"' if re.search(r"[^A-Za-z0-9_./=:,@+-]", plain) else plain
