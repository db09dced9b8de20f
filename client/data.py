"""An owner's records as examples of a job: read, cleaned, split and tokenised on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..job import Job
from ..learning.data import Corpus, load_corpus, split_rows
from ..learning.examples import tokens_of
from ..learning.grouped import counted, grouped, groups_of, secret_of, units
from .account import Account, Size

if TYPE_CHECKING:
    from .work import LocalData


@dataclass(frozen=True)
class DataSource:
    """Where an owner's records lie, and what it calls its columns."""

    path: Path
    test_path: Path | None = None
    text_column: str | None = None
    label_column: str | None = None

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes whenever a file is written: cheap enough to look at before every answer."""
        files = [path for path in (self.path, self.test_path) if path is not None]
        found = []
        for path in files:
            parts = sorted(path.rglob("*")) if path.is_dir() else [path]
            for part in parts:
                try:
                    state = part.stat()
                except OSError as error:
                    raise DataError(f"{part} cannot be read: {error.strerror}") from None
                found.append((str(part), state.st_mtime_ns, state.st_size))
        return tuple(found)

    def corpus(self, job: Job) -> Corpus:
        """All records of a job, cleaned as any other machine would."""
        given = {
            "path": str(self.path),
            "test_path": str(self.test_path) if self.test_path else None,
            "limit": None,
        }
        named = {"text_column": self.text_column, "label_column": self.label_column}
        given |= {key: value for key, value in named.items() if value is not None}
        spec = job.data.model_copy(update=given)
        return load_corpus(spec, job.task, grouped=job.per_group)

    def load(self, job: Job, size: Callable[[int], Size], name: str) -> LocalData:
        """The examples of a job, split and tokenised as any other machine would."""
        # Here, because a forecast reads records and does without the agent's torch.
        from .work import LocalData

        corpus = self.corpus(job)
        train, test = split_rows(corpus, job.data.test_fraction, job.seed)
        store = tokens_of(job, corpus)
        groups, most = groups_of(job, corpus), None
        apart = corpus.held_out is not None
        share = 1.0 if apart else 1 - job.data.test_fraction
        count = units(train if apart else np.arange(len(corpus)), groups)
        account = Account(name, share, apart or share < 1, size(count))
        if groups is not None:
            most = job.data.records_per_group
            test = counted(test, groups, corpus.texts, most, secret_of(job))
        return LocalData(grouped(store, train, groups), grouped(store, test, groups), account, most)
