"""Which runs somebody at the owner has approved, where the policy asks for it.

One file a request (a run of a job by an operator) in the owner's folder ``jobs``, written whole. The
agent asks; a person answers with ``umbel client approve`` or ``deny``, also while the agent runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import FileError, LedgerError, PlanRefused, UmbelError
from ..foreign import shown
from ..job import Job
from ..storage.files import write_durably
from .policy import NotYet

Status = Literal["pending", "approved", "denied"]

MOST_PENDING = 100
"""A server that keeps asking must not fill the owner's disk."""
_LONGEST_JOB = 2**18
_SHOWN = 12
_NOTED_EVERY = timedelta(minutes=5)
"""A run asks every few seconds; not every request is written down."""


@dataclass(frozen=True)
class JobSummary:
    """What a person wants to know of a job before anything else."""

    name: str
    task: str
    base: str
    adapter: str
    strategy: str
    rounds: int
    unit: str
    epsilon: float | None
    """The most epsilon that it may cost this owner; None without privacy."""
    delta: float | None
    encryption: str

    @classmethod
    def of(cls, job: Job) -> JobSummary:
        return cls(
            name=job.name,
            task=job.task,
            base=job.model.base,
            adapter=job.adapter,
            strategy=job.strategy.name,
            rounds=job.training.rounds,
            unit=job.privacy.unit,
            epsilon=job.privacy.epsilon if job.private else None,
            delta=job.privacy.delta if job.private else None,
            encryption=job.encryption.mode,
        )


@dataclass(frozen=True)
class JobRequest:
    """One run of one job, and what was answered."""

    id: str
    status: Status
    reason: str
    """Why it was denied."""
    run: str
    job_digest: str
    operator: str
    """The signer's public key, in hexadecimal."""
    first_seen: str
    """UTC in ISO 8601, like `decided`."""
    decided: str
    last_asked: str
    """When a pending request last came; if long ago, its run is over or its server stopped."""
    summary: JobSummary
    job: dict[str, Any]
    """The whole job."""

    def standing(self, now: datetime | None = None) -> str:
        """Its status, as people say it: of a pending one whether its run still waits for the answer."""
        asked = datetime.fromisoformat(self.last_asked)
        lapsed = (now or datetime.now(UTC)) - asked > 2 * _NOTED_EVERY
        return "not asked any more" if self.status == "pending" and lapsed else self.status

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> JobRequest:
        """Raises ``TypeError`` or ``ValueError`` for what ``to_dict`` did not make."""
        values = {"last_asked": values["first_seen"], **values}
        request = cls(**{**values, "summary": JobSummary(**values["summary"])})
        if request.status not in get_args(Status):
            raise ValueError(f"{request.status!r} is not a status")
        datetime.fromisoformat(request.last_asked)
        return request


class Approvals:
    """The requests of one owner, by the files in a folder.

    Guarantees: an approval holds for one run of one job by one operator: the same job run again, which
    costs its epsilon again, waits again. What was answered is on disk, whole. At most ``MOST_PENDING``
    requests wait at a time; answered ones are kept, and are as many as a person has answered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, job: Job, run: str, operator: str) -> None:
        """Return where this run is approved; else raise.

        ``NotYet`` if nobody has answered yet (the request is kept then, to be shown by ``list``),
        ``PlanRefused`` if it was denied or too many wait, ``LedgerError`` if files are damaged.
        """
        text = job.to_json()
        id_ = _id(job.digest(), run, operator)
        found = self._read(self._file(id_)) if self._file(id_).exists() else None
        if found is None:
            if len(text) > _LONGEST_JOB or len(run) > _SHOWN * 100:
                raise PlanRefused("The job is too large to show it to the people who approve it")
            self._make_room()
            self._write(
                JobRequest(
                    id=id_,
                    status="pending",
                    reason="",
                    run=run,
                    job_digest=job.digest(),
                    operator=operator,
                    first_seen=_now(),
                    decided="",
                    last_asked=_now(),
                    summary=JobSummary.of(job),
                    job=json.loads(text),
                )
            )
        elif found.status == "pending" and _past(found.last_asked, _NOTED_EVERY):
            self._write(replace(found, last_asked=_now()))
        if found is None or found.status == "pending":
            raise NotYet(
                f"This run waits for the owner's approval: umbel client approve {id_[:_SHOWN]}"
            )
        if found.status == "denied":
            because = f": {found.reason}" if found.reason else ""
            raise PlanRefused(f"The owner denied this run{because}")

    def list(self) -> tuple[JobRequest, ...]:
        """All requests, oldest first."""
        return tuple(sorted(self._all(), key=lambda request: (request.first_seen, request.id)))

    def approve(self, id_prefix: str) -> JobRequest:
        """Approve the request whose id begins so, also one that was denied."""
        return self._decide(id_prefix, "approved", "")

    def deny(self, id_prefix: str, reason: str = "") -> JobRequest:
        """Deny a request, also one that was approved: its next round is refused.

        The operator is told `reason`.
        """
        return self._decide(id_prefix, "denied", reason)

    def _make_room(self) -> None:
        """If too many wait: drop the oldest that its run does not ask for any more; else ``NotYet``."""
        waiting = [known for known in self.list() if known.status == "pending"]
        if len(waiting) < MOST_PENDING:
            return
        lapsed = [known for known in waiting if known.standing() != "pending"]
        if not lapsed:
            raise NotYet(
                f"{MOST_PENDING} jobs already wait for approval; this one was not kept. "
                "Approve or deny some of them (umbel client jobs)"
            )
        self._file(lapsed[0].id).unlink(missing_ok=True)

    def _decide(self, id_prefix: str, status: Status, reason: str) -> JobRequest:
        found = [
            request for request in self.list() if id_prefix and request.id.startswith(id_prefix)
        ]
        if len(found) != 1:
            waiting = [
                r.id[:_SHOWN] for r in found or self.list() if found or r.status == "pending"
            ]
            known = (
                f"; {'they are' if found else 'waiting'}: {', '.join(waiting)}" if waiting else ""
            )
            raise UmbelError(
                f"{len(found) or 'No'} requests begin with {id_prefix!r}{known}. See: umbel client jobs"
            )
        decided = replace(found[0], status=status, reason=reason, decided=_now())
        self._write(decided)
        return decided

    def _all(self) -> Iterator[JobRequest]:
        return (self._read(path) for path in self.folder.glob("[0-9a-f]*.json"))

    def _file(self, id_: str) -> Path:
        return self.folder / f"{id_}.json"

    def _read(self, path: Path) -> JobRequest:
        try:
            request = JobRequest.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LedgerError(
                f"{path} cannot be read as a request ({error}). Remove it: the run will ask again."
            ) from None
        if path.stem != request.id or request.id != _id(
            request.job_digest, request.run, request.operator
        ):
            raise LedgerError(f"{path} holds a different request than its name says. Remove it.")
        return request

    def _write(self, request: JobRequest) -> None:
        text = json.dumps(request.to_dict(), indent=2) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self._file(request.id), text.encode("ascii"), secret=True)
        except (OSError, FileError) as error:
            raise LedgerError(f"The request cannot be saved in {self.folder} ({error}).") from None


def printable(text: str, width: int = 40) -> str:
    """A text that came from others, safe to show in a terminal."""
    text = shown(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def _id(job_digest: str, run: str, operator: str) -> str:
    return hashlib.sha256(json.dumps([job_digest, run, operator]).encode()).hexdigest()


def _past(time: str, span: timedelta) -> bool:
    return datetime.now(UTC) - datetime.fromisoformat(time) > span


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
