"""Keys apart from the server: the secrets move out of its folder, into one that signs for it from then on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..consortium.authority import Consortium
from ..errors import ConsortiumError
from ..privacy.secagg.keys import Identity
from ..run.store import Store
from ..storage.files import new_folder, write_durably

SECRETS = ("consortium.key", "operator.key", "ca.key")
"""Files that a server's folder does not have."""
_PARTS = ("rosters", "members", "observers")
_FILES = ("consortium.json", "limits.json", "ca.crt", "server.crt", "counter")


def split(server: Consortium, keys: Path) -> Consortium:
    """Move the secrets into a new folder `keys`; that folder.

    The server's keeps what it needs: its TLS key, and a key that only a delegation gives a meaning.

    Guarantee: no secret leaves the server's folder before it is whole in the other one, and when this
    returns none is left there. A move that was cut off is gone on with by the same command.
    """
    if server.is_keys_alone:
        raise ConsortiumError(
            f"{server.path} is already the folder of the keys. Name another folder."
        )
    left = [name for name in SECRETS if (server.path / name).exists()]
    if server.delegate is not None and not left:
        raise ConsortiumError(f"{server.path} was already split: its keys are elsewhere.")
    if server.pending is not None:
        raise ConsortiumError(
            "A roster waits for its members' approval: do that first (umbel take)."
        )
    _check_no_run(server)
    public = _own_key(server).public.signing.hex().encode()
    if not _is_moved(server, keys, public, left):
        if server.delegate is not None:
            raise ConsortiumError(
                f"{server.path} was split, but {', '.join(left)} are still here. Name the folder that has "
                "the keys, and they are removed from here."
            )
        _ = server.identity, server.operator
        _copy(server, keys, public)
    write_durably(server.path / "delegate.pub", public)
    for name in left:
        (server.path / name).unlink()
    return Consortium(keys)


def _own_key(server: Consortium) -> Identity:
    """The server's own secret; without ``delegate.pub`` it is a file that nobody looks at."""
    path = server.path / "delegate.key"
    if not path.exists():
        write_durably(path, os.urandom(64), secret=True)
    return Identity(path.read_bytes())


def _is_moved(server: Consortium, keys: Path, public: bytes, names: Sequence[str]) -> bool:
    """Whether the folder `keys` has these secrets, for a server with this key."""
    try:
        here = (keys / "delegate.pub").read_bytes() == public
        return here and all(
            (keys / name).read_bytes() == (server.path / name).read_bytes() for name in names
        )
    except OSError:
        return False


def _copy(server: Consortium, keys: Path, public: bytes) -> None:
    with new_folder(keys) as folder:
        for part in (*_PARTS, "runs"):
            (folder / part).mkdir(mode=0o700)
        for part in _PARTS:
            for path in sorted((server.path / part).glob("*")):
                write_durably(folder / part / path.name, path.read_bytes())
        for name in _FILES:
            if (server.path / name).exists():
                write_durably(folder / name, (server.path / name).read_bytes())
        for name in SECRETS:
            write_durably(folder / name, (server.path / name).read_bytes(), secret=True)
        write_durably(folder / "delegate.pub", public)


def _check_no_run(server: Consortium) -> None:
    """Refuse while a run is not over: it was not delegated to the server, which could not certify it."""
    runs = Store(server.database).runs() if server.database.exists() else []
    if going := [run.name for run in runs if not run.over]:
        raise ConsortiumError(
            f"{going[0]} is not over, and without the keys its server could not certify it. Wait until "
            "it ends, or stop it (umbel stop). Nothing was changed."
        )
