"""Where each thing lies in a data owner's folder, and which of them are in memory alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..storage.cache import cache_root
from ..storage.files import fit_for_secrets, private_folder
from .account import AccountFile
from .decisions import Decisions
from .kept import KeptUpdates
from .marks import Marks
from .models import Models
from .own_state import OwnStates
from .seen import SeenOrders


class HomeFiles:
    """The names in a folder; nothing is read or written to learn them, but that ``witness`` is made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def seen_head(self) -> Path | None:
        """In memory: the hash that the ledger ended with when an answer last left."""
        return None if self.witness is None else self.witness / "ledger-head"

    @property
    def behind(self) -> Path:
        """What the server has heard of this ledger, if the ledger lacks it (``echo``)."""
        return self.path / "ledger-behind"

    @property
    def split_key(self) -> Path:
        return self.path / "split.key"

    @property
    def marks(self) -> Marks:
        return Marks(self.path / "marks")

    @property
    def account(self) -> AccountFile:
        return AccountFile(self.path / "account.json")

    @property
    def witness(self) -> Path | None:
        """A folder in memory, which no backup holds and a reboot forgets; None if there is none.

        What systemd gives the service comes first, also for a command beside it; then what it gives a
        user, then the shared memory of Linux, where any user may make folders: ``FileError`` if
        this one is not, or may not stay, this user's alone.
        """
        own, given = self.runtime_folder, os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        for place in (given, own, os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"):
            if place and fit_for_secrets(Path(place)):
                return private_folder(Path(place) / own.name)
        return None

    @property
    def runtime_folder(self) -> Path:
        """What the agent's unit has systemd make, while the service runs and after it."""
        digest = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()
        return Path("/run") / f"umbel-{digest[:16]}"

    @property
    def cache(self) -> Path:
        """Where tokens and features of the records are kept."""
        return cache_root(self.path)

    @property
    def settings_file(self) -> Path:
        return self.path / "client.toml"

    @property
    def policy(self) -> Path:
        return self.path / "policy.toml"

    @property
    def card_file(self) -> Path:
        return self.path / "consortium.json"

    @property
    def consortium_key(self) -> Path:
        """32 bytes: the public key that signs rosters; after it former ones, the one pinned first last."""
        return self.path / "consortium.key.pub"

    @property
    def ca_certificate(self) -> Path:
        """PEM: the only authority for the server's certificate."""
        return self.path / "ca.crt"

    @property
    def identity(self) -> Path:
        """64 secret bytes."""
        return self.path / "identity"

    @property
    def node_key(self) -> Path:
        """Secret, OpenSSH: the EC P-384 key with which the node authenticates itself to Flower."""
        return self.path / "node.key"

    @property
    def node_public_key(self) -> Path:
        """PEM."""
        return self.path / "node.pub"

    @property
    def roster(self) -> Path:
        return self.path / "roster"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.sqlite"

    @property
    def journals(self) -> Path:
        return self.path / "journals"

    @property
    def seen_orders(self) -> SeenOrders:
        return SeenOrders(self.path / "orders.json")

    @property
    def kept(self) -> KeptUpdates:
        """Updates of rounds in progress, sealed."""
        return KeptUpdates(self.path / "kept", self.witness)

    @property
    def states(self) -> OwnStates:
        """What strategies have this owner keep from round to round, sealed."""
        return OwnStates(self.path / "states", self.witness)

    @property
    def own_models(self) -> OwnStates:
        """What of finished runs is this owner's own, sealed, until it is deleted here; its keys lie beside
        it, because it has to outlive this machine's memory."""
        return OwnStates(self.path / "own", lasting=True)

    @property
    def models(self) -> Models:
        """What came of the jobs that this owner took part in."""
        return Models(self.path / "models")

    @property
    def audit(self) -> Path:
        return self.path / "audit.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def decisions(self) -> Decisions:
        """Every job that was asked, with what was decided."""
        return Decisions(self.path / "decisions")

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def left_out(self) -> Path:
        """Records that killed the worker."""
        return self.path / "left-out.npy"

    @property
    def lock(self) -> Path:
        """Held while an agent runs."""
        return self.path / "lock"

    @property
    def runs(self) -> Path:
        """The notes of each run."""
        return self.path / "runs"
