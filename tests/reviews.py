"""Rated sentences from four places, tokenised for a learner, and jobs over them."""

import copy
import csv
import importlib.util
import io
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS_A_SITE = 36


@pytest.fixture(scope="session")
def reviews():
    """Rated sentences from four places: a list of dictionaries, the same number from each place."""
    spec = importlib.util.spec_from_file_location("fetch", ROOT / "examples" / "fetch.py")
    fetch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fetch)
    content, _ = fetch.reviews()
    rows = [row for row in csv.DictReader(io.StringIO(content)) if 20 < len(row["text"]) < 90]
    chosen = []
    for site in fetch.SITES:
        of_site = [row for row in rows if row["site"] == site]
        for label in ("negative", "positive"):
            chosen += [row for row in of_site if row["label"] == label][: ROWS_A_SITE // 2]
    return chosen


@pytest.fixture(scope="session")
def texts(reviews):
    return [row["text"] for row in reviews]


@pytest.fixture(scope="session")
def labels(reviews):
    """int64[rows]: 1 for positive."""
    import numpy as np

    return np.array([row["label"] == "positive" for row in reviews], dtype=np.int64)


@pytest.fixture(scope="session")
def reviews_csv(reviews, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(reviews[0]))
        writer.writeheader()
        writer.writerows(reviews)
    return path


@pytest.fixture(scope="session")
def job_of(tiny, reviews_csv):
    """A job over the reviews: sections by name override those of a quick private job."""
    from umbel.job import Job

    def build(base="bert", **sections):
        values = {
            "name": "quick",
            "model": {
                "base": base if "/" in base else tiny(base),
                "max_length": 24,
                "lora": {"rank": 2, "alpha": 4},
            },
            "data": {"path": str(reviews_csv), "labels": ["negative", "positive"]},
            "training": {
                "rounds": 3,
                "local_steps": 2,
                "batch_size": 8,
                "learning_rate": 0.01,
                "device": "cpu",
            },
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
            "simulation": {"partition": "column:site"},
        }
        for name, section in copy.deepcopy(sections).items():
            if isinstance(section, dict):
                values[name] = {**values.get(name, {}), **section}
            else:
                values[name] = section
        return Job.build(values)

    return build


@pytest.fixture(scope="session")
def open_job_of(job_of):
    """The same without encryption, where every owner allows it: the server sees each update."""

    def build(base="bert", **sections):
        sections["encryption"] = {"mode": "none"}
        sections["simulation"] = {"encryption_required": False, **sections.get("simulation", {})}
        return job_of(base, **sections)

    return build


@pytest.fixture(scope="session")
def examples_of(texts, labels):
    """The first `count` reviews (or those of `rows`), tokenised for a learner."""
    import numpy as np

    def build(learner, count=24, rows=None):
        from umbel.learning.examples import Examples, tokenise

        language = learner.job.task == "causal-lm"
        store = tokenise(
            texts,
            None if language else labels,
            learner.tokenizer,
            learner.job.model.max_length,
            end_with_eos=language,
        )
        if rows is None:
            # Every third row, so that both labels and several sites are among them.
            rows = np.arange(len(texts))[::3][:count]
        return Examples(store, np.asarray(rows, dtype=np.int64))

    return build
