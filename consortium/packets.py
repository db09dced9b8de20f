"""Files that carry what was signed from where the keys are to where the server is, or to members and back.

Guarantee: they hold no secret, and are taken only as the keys on the consortium's card signed them; who
carries one can lose it, and change nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..errors import ConsortiumError
from ..job import Job
from ..storage.documents import Document
from ..storage.files import refuse_foreign
from .card import Request
from .key_handovers import MOST
from .warrants import RUN_NAME

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]


class _Carried(Document):
    handovers: list[str] = Field(default_factory=list, max_length=MOST)
    """The handovers from the consortium's first keys to those that signed this."""


class SignedJob(_Carried):
    """A job, the operator's order for one run of it, and what the server may do in this run."""

    _what: ClassVar[str] = "signed job"
    _largest: ClassVar[int] = 2**20

    format: Literal["umbel signed job 1"] = "umbel signed job 1"
    run: Annotated[str, Field(pattern=RUN_NAME)]
    job: dict[str, Any]
    order: Hex
    delegation: Hex = ""
    """Empty if the server holds the operator's key."""

    @property
    def built(self) -> Job:
        return Job.build(self.job, source=f"the job of run {self.run}")


class SignedMembers(_Carried):
    """A roster, and the requests of its members."""

    _what: ClassVar[str] = "signed roster"
    _largest: ClassVar[int] = 2**26

    format: Literal["umbel signed roster 1"] = "umbel signed roster 1"
    roster: Hex
    requests: list[Request]


class SignedCertificate(_Carried):
    """A certificate for the server's own key, by the consortium's authority."""

    _what: ClassVar[str] = "server certificate"

    format: Literal["umbel server certificate 1"] = "umbel server certificate 1"
    certificate: str


def is_packet(path: Path) -> bool:
    """Whether a file is one of these, not a job file: JSON begins with a brace, TOML cannot."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except OSError:
        return False


Packet = SignedJob | SignedMembers | SignedCertificate


def refuse_others(path: Path, kind: type[Packet], run: str = "") -> None:
    """``FileError`` if what is to be signed would take the place of something else.

    Of an order, also of one for another run than `run`: whoever lost it could not have it again.
    """

    def is_own(content: bytes) -> bool:
        try:
            values = json.loads(content)
            same = values["format"] == kind.model_fields["format"].default
            return same and (kind is not SignedJob or values["run"] == run)
        except (ValueError, RecursionError, KeyError, TypeError):
            return False

    what = f"a {kind._what}" + (f" for the run {run}" if run else "")
    refuse_foreign(path, what, is_own)


def read_packet(path: Path) -> Packet:
    """A signed file of any kind; ``ConsortiumError`` for any other."""
    kinds: dict[str, type[Packet]] = {
        str(kind.model_fields["format"].default): kind
        for kind in (SignedJob, SignedMembers, SignedCertificate)
    }
    try:
        if path.stat().st_size > max(kind._largest for kind in kinds.values()):
            raise ValueError("far too large")
        values = json.loads(path.read_bytes())
        kind = kinds[values["format"]]
    except OSError as error:
        raise ConsortiumError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ConsortiumError(
            f"{path} is not a file that umbel sign writes. Check the path."
        ) from None
    return kind.read(path)
