"""From one data file to virtual data owners: clean, split, share out, tokenise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..client.work import LocalData
from ..facts import ClientFacts
from ..job import Job
from ..learning.data import Corpus, fingerprint, load_corpus, split_rows
from ..learning.examples import Examples, TokenStore, tokens_of
from .partition import Share, parse_scheme, partition


@dataclass(frozen=True)
class Federation:
    """Virtual data owners. Small enough to send to every worker: tokens stay in mapped files."""

    job: Job
    """The job with its labels filled in, as a deployment would have to write them."""
    store: TokenStore
    shares: tuple[Share, ...]
    fingerprints: dict[str, str]
    dropped: dict[str, int]

    @property
    def facts(self) -> list[ClientFacts]:
        strict = self.job.simulation.encryption_required
        return [ClientFacts(s.name, len(s.train), len(s.test), strict) for s in self.shares]

    @property
    def classes(self) -> int:
        return len(self.job.data.labels or ())

    def data(self, share: Share) -> LocalData:
        return LocalData(
            Examples(self.store, share.train),
            Examples(self.store, share.test),
            self.fingerprints[share.name],
        )

    def partition_event(self) -> dict[str, Any]:
        """Who holds what, for metrics.jsonl."""
        labels = list(self.job.data.labels or ())
        return {
            "event": "partition",
            "labels": labels,
            "dropped": self.dropped,
            "clients": {share.name: self._holdings(share, labels) for share in self.shares},
        }

    def _holdings(self, share: Share, labels: list[str]) -> dict[str, Any]:
        held = np.asarray(self.store.labels)[share.train]
        counts = np.bincount(held[held >= 0], minlength=len(labels))
        return {
            "train": len(share.train),
            "test": len(share.test),
            "labels": {label: int(n) for label, n in zip(labels, counts, strict=True)},
        }


def federate(job: Job, progress: Callable[[str], None] = lambda _: None) -> Federation:
    """Build the virtual owners of a job. Raises ``DataError`` or ``JobError``."""
    scheme = parse_scheme(job.simulation.partition)
    progress("reading data")
    corpus = load_corpus(job.data, job.task, scheme.column)
    train, test = split_rows(corpus, job.data.test_fraction, job.seed)
    shares = partition(corpus, train, test, job.simulation, job.seed)
    if corpus.label_names:
        data = job.data.model_copy(update={"labels": list(corpus.label_names)})
        job = job.model_copy(update={"data": data})
    progress("tokenising")
    return Federation(
        job=job,
        store=tokens_of(job, corpus),
        shares=tuple(shares),
        fingerprints=_fingerprints(corpus, shares),
        dropped=dict(corpus.dropped),
    )


def _fingerprints(corpus: Corpus, shares: list[Share]) -> dict[str, str]:
    """The ledger knows a data set by its texts alone: other labels do not refill its budget."""
    return {
        share.name: fingerprint(
            (corpus.texts[row] for row in np.concatenate([share.train, share.test])), None
        )
        for share in shares
    }
