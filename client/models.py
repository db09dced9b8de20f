"""Models that came of the jobs an owner took part in: received, checked, kept and listed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..certificate.form import FILE, Certificate
from ..certificate.parcel import ADAPTER, Expected, Parcel, unpack
from ..errors import CertificateError, PlanRefused
from ..job import Job
from ..storage.files import new_folder, write_durably
from .rules import ResultRules
from .run_files import of_run


@dataclass(frozen=True)
class Model:
    """One that is kept."""

    name: str
    run: str
    issued: str
    rounds: int
    planned: int
    epsilon: float | None
    """The most that the run cost any owner."""
    figures: Mapping[str, float]
    path: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Models:
    """An owner's folder of models: one folder each, with `adapter` and `certificate.json` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(
        self, owner: str, job: Job, rules: ResultRules, expected: Expected, parcel: Parcel
    ) -> Path:
        """Check a result and write it, whole or not at all; where it lies.

        The same one again, or an earlier one, changes nothing; one with a newer certificate takes the
        earlier one's place.
        Raises ``PlanRefused`` if the owner takes none, and ``CertificateError`` for one that is not as
        it should be; then nothing is written.
        """
        if not rules.accept:
            raise PlanRefused(f"{owner}'s policy takes no results (results.accept)")
        certificate, files = unpack(parcel, expected)
        place = place_of(self.folder, job, expected.run)
        old, before = _earlier(place), _read(place)
        if old.is_dir() and not place.exists():  # a crash in the midst of what follows
            os.rename(old, place)
            before = _read(place)
        if before is not None and before.issued > certificate.issued:
            return place
        if before is not None and _holds(place, files):
            return place
        if os.path.lexists(place):
            shutil.rmtree(old, ignore_errors=True)
            os.rename(place, old)
        with new_folder(place) as made:
            (made / ADAPTER).mkdir(mode=0o700)
            for name, data in files.items():
                write_durably(made / name, data, secret=True)
        shutil.rmtree(old, ignore_errors=True)
        return place

    def list(self) -> list[Model]:
        """All that are kept, the newest first."""
        folders = [p for p in self.folder.glob("*") if p.is_dir() and not p.name.startswith(".")]
        # Of what a crash left in the midst of being replaced, the earlier one still counts.
        left = [p for p in self.folder.glob(".*.before") if not _later(p).exists()]
        found = [(path, _read(path)) for path in [*folders, *left]]
        models = [_described(path, certificate) for path, certificate in found if certificate]
        return sorted(models, key=lambda model: (model.issued, model.name), reverse=True)


def place_of(folder: Path, job: Job, run: str) -> Path:
    """Where a run's model, or another file of it, lies: called as the run is, if that is a file's name."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", run):
        return folder / run
    return of_run(folder, run, beginning=f"{job.name}-")


def _earlier(place: Path) -> Path:
    """Where a model lies while another one takes its place."""
    return place.with_name(f".{place.name}.before")


def _later(earlier: Path) -> Path:
    return earlier.with_name(earlier.name.removeprefix(".").removesuffix(".before"))


def _holds(place: Path, files: Mapping[str, bytes]) -> bool:
    """Whether these files are there."""
    try:
        return all((place / name).read_bytes() == data for name, data in files.items())
    except OSError:
        return False


def _read(folder: Path) -> Certificate | None:
    try:
        return Certificate.read(folder / FILE)
    except CertificateError:
        return None


def _described(path: Path, certificate: Certificate) -> Model:
    return Model(
        str(certificate.job.canonical.get("name", path.name)),
        certificate.run,
        certificate.issued,
        certificate.rounds.done,
        certificate.rounds.planned,
        certificate.guarantee.epsilon_spent,
        certificate.figures,
        str(path),
    )
