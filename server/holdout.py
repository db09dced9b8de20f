"""The public hold-out: records that anybody may see, on which the server itself tests the model.

Its figures cost no privacy and stand beside those of the owners. The file is with the operator of the
server; an owner reads its path in the job that it was asked, and nothing more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..job import Job
from ..learning.data import Corpus, load_corpus
from ..learning.examples import Examples, tokens_of
from ..learning.split import fingerprint
from ..planning.schedule import is_due_publicly
from ..run.events import Holdout, Public

if TYPE_CHECKING:
    from ..learning.model import Learner
    from ..run.run_folder import RunFolder
    from ..wire.arrays import Arrays
    from .run import Run


@dataclass(frozen=True)
class PublicRecords:
    """The records as examples of the job; `sha256` is that of their content, in any order."""

    path: str
    examples: Examples
    sha256: str


def read_public(job: Job) -> PublicRecords | None:
    """None if the job names none. Raises ``DataError`` for a file that the job cannot be tested on."""
    corpus = public_corpus(job)
    if corpus is None:
        return None
    rows = np.arange(len(corpus)) if corpus.held_out is None else np.flatnonzero(corpus.held_out)
    names = None
    if corpus.labels is not None:
        names = [corpus.label_names[corpus.labels[row]] for row in rows]
    digest = fingerprint((corpus.texts[row] for row in rows), names)
    return PublicRecords(_path(job), Examples(tokens_of(job, corpus), rows).readable(), digest)


def public_corpus(job: Job) -> Corpus | None:
    """The public file, cleaned as the owners' data are; of a data set with a "test" split, that one."""
    if job.evaluation.public_path is None:
        return None
    given = {"path": _path(job), "test_path": None, "group_column": None, "limit": None}
    try:
        return load_corpus(job.data.model_copy(update=given), job.task)
    except DataError as error:
        raise DataError(f"evaluation.public_path: {error}") from None


class PublicTest:
    """Figures of models on public records, computed in this process with `learner`'s base model."""

    def __init__(self, learner: Learner, records: PublicRecords) -> None:
        from ..learning.features import with_features
        from ..learning.tasks import task_for

        self.learner = learner
        self._labels = learner.job.data.labels or []
        self._task = task_for(learner.job, len(self._labels))
        self._examples = with_features(learner, records.examples)

    def __call__(self, arrays: Arrays) -> dict[str, Any]:
        from ..learning.trainer import test

        return test(self.learner, self._task, arrays, self._examples).metrics(self._labels)


def note_public(folder: RunFolder, records: PublicRecords | None) -> None:
    """Write down what the figures of a run are about; a run that goes on must find the same records."""
    if records is None:
        return
    noted = folder.told(Public)
    if not noted:
        count = len(records.examples)
        folder.append(Public(count, records.sha256))
    elif noted[0].sha256 != records.sha256:
        raise DataError(
            f"evaluation.public_path: {records.path} has changed since this run began, and figures on "
            "other records cannot be compared. Restore the file, or start a new run."
        )


def measure_publicly(run: Run, last: bool = False) -> None:
    """Test the current model where that is due, and was not done before a crash."""
    from ..learning.model import arrays_digest

    if run.public_test is None or not (last or is_due_publicly(run.plan.job, run.round)):
        return
    model = arrays_digest(run.arrays)
    if run.choice.heard(Holdout, run.round, model):
        return
    begun = time.monotonic()
    run.listener.started(f"public {run.round}", 0)
    metrics = run.public_test(run.arrays)
    run.tell(Holdout(run.round, model, round(time.monotonic() - begun, 3), metrics))


def _path(job: Job) -> str:
    return job.evaluation.public_path or ""
