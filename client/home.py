"""The owner's folder: its settings, its keys, and where its agent keeps what it must remember."""

from __future__ import annotations

import json
import os
import tomllib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..consortium.card import Card, Request, check_name
from ..errors import ConsortiumError, LedgerError, ProtocolError
from ..foreign import typed
from ..privacy.secagg.keys import Identity
from ..storage.files import (
    new_folder,
    refuse_existing,
    refuse_foreign,
    write_durably,
)
from .home_files import HomeFiles
from .keys import new_node_key, pin
from .secure import Membership
from .settings import DataSettings, Settings, settings_text

if TYPE_CHECKING:
    from .data import DataSource


SECRET_BYTES = 32


class Home(HomeFiles):
    """One data owner's folder. Its secrets (`identity`, `node_key`) are readable by the owner alone.

    It must never be restored from a backup, nor copied to a second machine, while the keys in it are
    in use: journals and ledger say what was already sent and spent.
    """

    @classmethod
    def create(
        cls,
        path: Path,
        card_path: Path,
        data: Path,
        name: str | None = None,
        declared: DataSettings | None = None,
        test_data: Path | None = None,
        **given: Any,
    ) -> Home:
        """Make keys and settings, and beside the folder the request that goes to the operator.

        `name` defaults to the folder's. `declared` is what may be asked of the data; without it that
        is looked up in the file, beside what is `given` (``propose``). Nothing of the data is copied.
        The folder is there whole, or not at all; the request comes after it, and ``write_request``
        makes it again.
        """
        from .policy import write_policy_template

        card, name = cls.check_new(path, card_path, name)
        if declared is None:
            from .propose import propose

            declared = propose(data, test_data, **given).declared
        text = settings_text(name, declared)
        Settings.build(tomllib.loads(text), "umbel client init")
        secret, public = new_node_key()
        with new_folder(path) as folder:
            new = cls(folder)
            for part in (new.journals, new.jobs):
                part.mkdir(mode=0o700)
            card.write(new.card_file)
            write_durably(new.consortium_key, card.consortium_key_bytes)
            write_durably(new.ca_certificate, card.ca_certificate.encode())
            write_durably(new.identity, os.urandom(64), secret=True)
            write_durably(new.node_key, secret, secret=True)
            write_durably(new.split_key, os.urandom(SECRET_BYTES), secret=True)
            write_durably(new.node_public_key, public.encode())
            write_durably(new.settings_file, text.encode())
            new.account.begin(new.account.fresh_name())
            write_policy_template(new.policy)
        home = cls(path)
        home.write_request()
        return home

    @classmethod
    def check_new(cls, path: Path, card_path: Path, name: str | None) -> tuple[Card, str]:
        """Card and name of a folder that is to be made; ``ConsortiumError`` for one that cannot be.

        Before the data is looked at, which may take long, and be confirmed by a person.
        """
        refuse_existing(path)
        card = Card.read(card_path)
        name = path.resolve().name if name is None else name
        try:
            check_name(name)
        except ValueError as error:
            raise ConsortiumError(
                f"{name!r} cannot be the name of an owner: {error}. Give another name with --name."
            ) from None
        refuse_foreign(_request_place(path, name), "this folder's request", lambda _: False)
        return card, name

    @classmethod
    def open(cls, path: Path) -> Home:
        """An existing folder, its settings checked; ``ConsortiumError`` if something is wrong."""
        home = cls(path)
        if not home.settings_file.is_file():
            raise ConsortiumError(
                f"{path} is not a data owner's folder (it has no client.toml). Make one with: "
                "umbel client init FOLDER --data FILE --consortium consortium.json"
            )
        for file in (home.identity, home.node_key, home.card_file, home.consortium_key):
            if not file.is_file():
                raise ConsortiumError(
                    f"{file} is missing, and this owner cannot take part without it. Restore it "
                    "from a backup, or make a new folder with umbel client init, and send its "
                    "request to the operator."
                )
        pinned = home.consortium_key.read_bytes()
        if pinned[:32] not in home.card.consortium_keys:
            raise ConsortiumError(
                f"{home.card_file} belongs to another consortium than the one that this folder "
                "was made for. Put the first one back, or make a new folder with umbel client "
                "init."
            )
        if pinned != b"".join(home.card.consortium_keys):
            pin(home, home.card)  # following a handover was cut off
        _ = home.settings
        return home

    @cached_property
    def settings(self) -> Settings:
        """client.toml; a ``ConsortiumError`` names each wrong key and what is known instead."""
        file = self.settings_file
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConsortiumError(f"{file} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise ConsortiumError(f"{file} is not valid TOML: {error}") from None
        if isinstance(values.get("data"), dict) and "text_column" not in values["data"]:
            raise ConsortiumError(
                f"{file} does not declare yet what jobs may ask of the data: [data] needs text_column, "
                "label_column and labels (all classes), and a group_column if records belong to "
                f"groups. To find them in the data and add them: umbel client upgrade {typed(self.path)}"
            )
        return Settings.build(values, str(file))

    @cached_property
    def card(self) -> Card:
        return Card.read(self.card_file)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def address(self) -> str:
        """Where the server is, ``host:port``."""
        return self.settings.server.address or self.card.address

    @property
    def data(self) -> Path:
        return self._from_here(self.settings.data.path)

    @property
    def test_data(self) -> Path | None:
        path = self.settings.data.test_path
        return None if path is None else self._from_here(path)

    @property
    def source(self) -> DataSource:
        """The data, as client.toml declares it."""
        from .data import DataSource
        from .left_out import LeftOut

        declared, name = self.settings.data, self.account.name
        secret, left_out = self.split_secret, LeftOut(self.left_out)
        return DataSource(self.data, self.test_data, declared, name, secret, self.marks, left_out)

    @property
    def split_secret(self) -> bytes:
        """What only this owner knows: it decides which records are held out, and hashes them."""
        try:
            secret = self.split_key.read_bytes()
        except OSError:
            secret = b""
        if len(secret) != SECRET_BYTES:
            raise LedgerError(
                f"{self.split_key} is missing or damaged: it determines which records are held out, "
                "and which an account has had. Put the newest copy back; if the folder is from an "
                f"earlier version: umbel client upgrade {typed(self.path)}"
            )
        return secret

    @property
    def membership(self) -> Membership:
        """What secure sums need. Its roster is there only once the server has sent one."""
        return Membership(
            self.name,
            self.identity,
            self.consortium_key,
            self.roster,
            self.journals,
            self.witness,
        )

    def environment(self, *, hub: bool = False) -> dict[str, str]:
        """What a process that works on this owner's records has in its environment.

        hub: whether it may ask the model hub for anything.
        """
        offline = {} if hub else {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {"UMBEL_CACHE": str(self.cache), **quiet, **offline}

    @property
    def request(self) -> Request:
        """The request to be admitted: the same whenever it is made."""
        identity = Identity(self.identity.read_bytes())
        public = self.node_public_key.read_text(encoding="ascii")
        return Request.make(self.card, self.name, identity, public)

    @property
    def request_file(self) -> Path:
        """Beside the folder, since it is what goes out."""
        return _request_place(self.path, self.name)

    def write_request(self, request: Request | None = None) -> Path:
        """Write the request for the operator; where it lies. Over nothing but one of this folder's own."""
        refuse_foreign(self.request_file, "this folder's request", self._is_own_request)
        (request or self.request).write(self.request_file)
        return self.request_file

    def _is_own_request(self, content: bytes) -> bool:
        """Whether keys of this folder made it: the ones in use, or those that are to follow."""
        files = [self.identity, self.path / "next" / self.identity.name]
        keys = [Identity(file.read_bytes()).public for file in files if file.exists()]
        try:
            return Request.build(json.loads(content), "request").identity in keys
        except (ValueError, RecursionError, ConsortiumError, ProtocolError):
            return False

    def _from_here(self, path: str) -> Path:
        return (self.path / Path(path).expanduser()).resolve()


def _request_place(folder: Path, name: str) -> Path:
    return folder.resolve().parent / f"{name}.request.json"
