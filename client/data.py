"""An owner's records as examples of a job: read, cleaned, split and tokenised as the owner declared.

Of a job only the task, the order of the classes and the tokenizer count here. Which columns, which
records and which of them are held out follows from the declaration and the owner's secret.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..job import DataSpec, Job
from ..learning.data import Corpus, load_corpus
from ..learning.examples import Examples, tokens_of
from ..learning.failures import Touch
from ..learning.grouped import apart, counted, grouped, groups_of, units
from ..learning.split import row_marks, split_rows
from ..privacy.dpsgd.groups import numbered
from ..privacy.noise.sizes import Sizes
from ..tasks.spec import task_that_reads, usual_task
from .account import Account, Size
from .left_out import LeftOut
from .marks import Marks
from .settings import DataSettings

if TYPE_CHECKING:
    from .work import LocalData


@dataclass(frozen=True)
class DataSource:
    """Where an owner's records lie, what it declared of them, and what keeps its accounts apart."""

    path: Path
    test_path: Path | None
    declared: DataSettings
    account: str
    secret: bytes
    marks: Marks
    left_out: LeftOut

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes with the account, and when a file is written: cheap enough before every answer."""
        files = [path for path in (self.path, self.test_path) if path is not None]
        found = [(self.account, 0, 0)]
        for path in files:
            parts = sorted(path.rglob("*")) if path.is_dir() else [path]
            for part in parts:
                try:
                    state = part.stat()
                except OSError as error:
                    if part.is_symlink():
                        raise DataError(
                            f"{part} is a link to a file that is not there. Remove the link, or bring the "
                            "file back."
                        ) from None
                    raise DataError(f"{part} cannot be read: {error.strerror}") from None
                found.append((str(part), state.st_mtime_ns, state.st_size))
        return tuple(found)

    def corpus(self, labels: list[str] | None = None, *, of_all_accounts: bool = False) -> Corpus:
        """The account's records, cleaned; the same rows whatever is asked of them.

        labels: the declared classes in a job's order. Rows that the declaration leaves out, and rows
        of another account, are dropped, which the owner's log alone says.
        """
        declared = self.declared
        spec = DataSpec(
            path=str(self.path),
            test_path=str(self.test_path) if self.test_path else None,
            text_column=declared.text_column,
            answer_column=declared.answer_column,
            label_column=declared.label_column,
            labels=labels or declared.labels,
            spellings=declared.spellings or {},
            group_column=declared.group_column,
            encoding=declared.encoding,
            quoting=declared.quoting,
            sheet=declared.sheet,
        )
        task = usual_task(labelled=declared.labels is not None).name
        if declared.reads != "texts":
            task = task_that_reads(declared.reads)
        corpus = load_corpus(
            spec,
            task,
            declared=True,
            grouped=declared.unit == "group",
            largest=declared.largest_picture,
        )
        if of_all_accounts:
            return corpus
        foreign = self.marks.foreign(row_marks(corpus, self.secret), self.account)
        if foreign.any():
            dropped = corpus.dropped | {"of another account": int(foreign.sum())}
            corpus = replace(corpus.take(np.flatnonzero(~foreign)), dropped=dropped)
        if corpus.dropped:
            reasons = ", ".join(f"{count} ({why})" for why, count in corpus.dropped.items())
            logging.getLogger(__name__).warning("records left out of the data: %s", reasons)
        return corpus

    def split(self, corpus: Corpus, secret: bytes | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Training rows and held-out rows. `secret` replaces the owner's in a rehearsal."""
        return split_rows(corpus, self.declared.share, secret or self.secret)

    def counts(self, corpus: Corpus) -> Sizes:
        """What published sizes count: records or groups, each in one file only."""
        by_group = self.declared.unit == "group" and corpus.groups is not None
        groups = numbered(corpus.groups or []) if by_group else None
        if corpus.held_out is None:
            return Sizes(units(np.arange(len(corpus)), groups))
        train, test = np.flatnonzero(~corpus.held_out), np.flatnonzero(corpus.held_out)
        return Sizes(units(train, groups), units(apart(test, train, groups), groups))

    def check(self) -> None:
        """Refuse (``DataError``) files or columns that are not there, without a look at a record.

        Records of JSON and CoNLL name their columns themselves, so there is nothing to look at beforehand.
        """
        from ..learning.reading.columns import check_columns
        from ..learning.reading.conll import CONLL
        from ..learning.reading.header import column_names
        from ..learning.reading.lines import JSON
        from ..learning.reading.packing import ending

        declared = self.declared
        columns = [
            declared.text_column,
            declared.answer_column,
            declared.label_column,
            declared.group_column,
        ]
        for path in filter(None, (self.path, self.test_path)):
            if path == self.test_path and declared.unit == "record":
                columns = columns[:3]  # which side these records are on is settled
            if not path.exists():
                raise DataError(f"There is no data file {path}. Check client.toml.")
            if ending(path) not in (*JSON, *CONLL):
                wanted = [name for name in columns if name is not None]
                found = column_names(path, declared.layout, wanted, declared.reads == "pictures")
                check_columns(str(path), wanted, found)

    def load(
        self,
        job: Job,
        split_secret: bytes | None = None,
        left_out: frozenset[int] = frozenset(),
        touch: Touch | None = None,
    ) -> LocalData:
        """The examples of a job, split and tokenised; whatever they are, they are the account's.

        left_out: rows that are known to kill this process, which are remembered. touch: as in
        ``learning.examples.tokenise``.
        """
        # Here, because a forecast reads records and does without the agent's torch.
        from .work import LocalData

        corpus = self.corpus(job.data.labels if job.kind.labelled else None)
        self.marks.keep(row_marks(corpus, self.secret), self.account)
        if left_out:
            self.left_out.add(corpus.texts, left_out, self.secret)
        left_out |= self.left_out.rows(corpus.texts, self.secret)
        counts = self.counts(corpus)
        if not job.kind.labelled:
            corpus = replace(corpus, labels=None, label_names=())
        train, test = self.split(corpus, split_secret)
        store = tokens_of(job, corpus, left_out=left_out, touch=touch)
        groups, most = groups_of(job, corpus), None
        if groups is not None:
            most = self.declared.records_per_group
            test = apart(test, train, groups)
            test = counted(test, groups, corpus.texts, most, split_secret or self.secret)
        return LocalData(grouped(store, train, groups), grouped(store, test, groups), counts, most)

    def nothing(self, job: Job) -> LocalData:
        """What an owner without a single record would have."""
        from .work import LocalData

        store = tokens_of(job, Corpus([], None, (), None, None, None, {}))
        nobody = np.zeros(0, np.int64)
        none = Examples(store, nobody, groups=nobody if job.per_group else None)
        counts = Sizes(0, None if self.test_path is None else 0)
        most = self.declared.records_per_group if job.per_group else None
        return LocalData(none, none, counts, most)

    def account_of(self, size: Size) -> Account:
        """The account of these records."""
        declared = self.declared
        smallest = declared.smallest_size
        return Account(self.account, declared.share, declared.holds_out, size, smallest)
