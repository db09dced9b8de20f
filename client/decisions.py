"""What an owner keeps of every job that was asked of it: the job, what was decided, what it planned here.

One file a run in the owner's folder ``decisions``, for its owner's eyes alone. So years later it can be
read what ran on the data, on whose order, and why it was let in: also where the policy decides alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import FileError, LedgerError
from ..job import Job
from ..storage.files import write_durably
from .approvals import JobSummary

REFUSED = "job refused"
ACCEPTED = "job accepted"
FINISHED = "job finished"

MOST_REFUSED = 200
"""At most this many jobs that never ran here are kept: a server that keeps asking must not fill the disk."""
_MOST_STEPS = 100
_LONGEST_JOB = 2**18


@dataclass(frozen=True)
class KeptJob:
    """One run of one job."""

    run: str
    job_digest: str
    operator: str
    """The signer's public key, in hexadecimal; empty if the owner does not accept the signer."""
    summary: JobSummary
    job: dict[str, Any]
    """The whole job."""
    decisions: list[dict[str, str]] = field(default_factory=list)
    """What was decided, oldest first: `time` (UTC in ISO 8601), `event` and `why`."""
    plan: dict[str, Any] = field(default_factory=dict)
    """What the run does here, in public numbers; empty until it trains."""

    @property
    def status(self) -> str:
        """What was decided last."""
        return self.decisions[-1]["event"] if self.decisions else ""

    @property
    def first_seen(self) -> str:
        return self.decisions[0]["time"] if self.decisions else ""

    @property
    def ran(self) -> bool:
        """Whether it was ever accepted."""
        return any(step["event"] in (ACCEPTED, FINISHED) for step in self.decisions)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> KeptJob:
        """Raises ``TypeError``, ``KeyError`` or ``ValueError`` for what ``to_dict`` did not make."""
        return cls(**{**values, "summary": JobSummary(**values["summary"])})


class Decisions:
    """The jobs of one owner, by the files in a folder.

    Guarantee: what was noted is on disk, whole, and only the folder's owner can read it. A job that ran
    here is kept for good. Assumption: one agent writes (``processes.alone``).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def last(self, run: str, job: Job) -> tuple[str, str] | None:
        """What was decided last, and why; None if nothing was."""
        known = self._find(run, job.digest())
        if known is None or not known.decisions:
            return None
        return known.status, known.decisions[-1]["why"]

    def note(self, run: str, job: Job, operator: str, event: str, why: str) -> None:
        """Write down what was decided, unless that was decided last."""
        if self.last(run, job) == (event, why):
            return
        text, digest = job.to_json(), job.digest()
        known = self._find(run, digest)
        if known is None:
            if len(text) > _LONGEST_JOB:
                return  # no job that anybody wrote; the audit log has its digest
            known = KeptJob(run, digest, operator, JobSummary.of(job), json.loads(text))
            self._make_room()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        steps = [*known.decisions, {"time": now, "event": event, "why": why}]
        kept = steps[:1] + steps[-_MOST_STEPS:] if len(steps) > _MOST_STEPS else steps
        self._write(replace(known, operator=operator or known.operator, decisions=kept))

    def planned(self, run: str, job: Job, plan: dict[str, Any]) -> None:
        """Write down what the run does here, if that is new."""
        known = self._find(run, job.digest())
        if known is not None and known.plan != plan:
            self._write(replace(known, plan=plan))

    def list(self) -> list[KeptJob]:
        """All jobs, oldest first."""
        return sorted(self._all(), key=lambda kept: (kept.first_seen, kept.run))

    def _find(self, run: str, digest: str) -> KeptJob | None:
        path = self._file(run, digest)
        return self._read(path) if path.exists() else None

    def _all(self) -> Iterator[KeptJob]:
        return (self._read(path) for path in self.folder.glob("*.json"))

    def _make_room(self) -> None:
        """Let go of the oldest that never ran here, if they are many."""
        refused = [kept for kept in self.list() if not kept.ran]
        for kept in refused[: max(0, len(refused) - MOST_REFUSED + 1)]:
            self._file(kept.run, kept.job_digest).unlink(missing_ok=True)

    def _file(self, run: str, digest: str) -> Path:
        # A run is who names it: somebody's other job under the same name must not take its place.
        name = hashlib.sha256(json.dumps([run, digest]).encode()).hexdigest()[:32]
        return self.folder / f"{name}.json"

    def _read(self, path: Path) -> KeptJob:
        try:
            return KeptJob.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LedgerError(
                f"{path} cannot be read ({error}). It records what was decided on a job. Move it away, "
                "and the agent continues without it."
            ) from None

    def _write(self, kept: KeptJob) -> None:
        text = json.dumps(kept.to_dict(), indent=1) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self._file(kept.run, kept.job_digest), text.encode("ascii"), secret=True)
        except (OSError, FileError) as error:
            raise LedgerError(f"The decision cannot be saved in {self.folder} ({error}).") from None
