"""From one data file to virtual data owners: clean, split, share out, tokenise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..client.account import Account, SeededSize, seeded_name
from ..client.work import LocalData
from ..errors import DataError
from ..job import Job
from ..learning.data import Corpus, load_corpus
from ..learning.examples import TokenStore, tokens_of
from ..learning.grouped import apart, counted, grouped, groups_of, units
from ..learning.progress import listening
from ..learning.split import split_rows, split_secret
from ..planning.facts import ClientFacts, training_size
from ..privacy.noise.sizes import Sizes
from ..run.events import Held, Partition
from ..server.run import Listener, Silent
from ..survey.concerns import concerns, telling_columns
from ..survey.lengths import WORTH, cut
from .partition import Share, parse_scheme, partition
from .unread import none_readable, unread


@dataclass(frozen=True)
class Federation:
    """Virtual data owners. Small enough to send to every worker: tokens stay in mapped files."""

    job: Job
    """The job with its labels filled in, as a deployment must write them."""
    store: TokenStore
    groups: np.ndarray | None
    """Each row's group as a number, int64[rows], if groups are protected."""
    shares: tuple[Share, ...]
    tested: dict[str, np.ndarray]
    """Held-out rows that tests use, by client: for a protected group with many rows, not all."""
    training_share: float
    holds_out: bool
    dropped: dict[str, int]
    ungrouped: int = 0
    """Rows without a value in the group column."""
    notes: tuple[str, ...] = ()
    """How the file was read, if it needs mention."""
    look: tuple[str, ...] = ()
    """What to look at again in the file (``survey.concerns``)."""
    cut: dict[str, float] = field(default_factory=dict)
    """How much of the texts is cut (``survey.lengths.cut``)."""
    samples: tuple[str, ...] = ()
    """Held-out dialogues that answers.json quotes."""

    @property
    def facts(self) -> list[ClientFacts]:
        return [self._facts(share) for share in self.shares]

    @property
    def classes(self) -> int:
        return len(self.job.data.labels or ())

    def padding_cost(self) -> float | None:
        """How many times the tokens of texts are computed if all are padded to one length."""
        if self.job.model.padding == "longest":
            return None
        lengths = np.diff(self.store.offsets)
        return float(self.job.model.max_length * len(lengths) / lengths.sum())

    def data(self, share: Share) -> LocalData:
        return LocalData(
            grouped(self.store, share.train, self.groups),
            grouped(self.store, self.tested[share.name], self.groups),
            self._account_size(share).counts,
            self.job.data.records_per_group if self.job.per_group else None,
        )

    def training_size(self, share: Share) -> int:
        """As the agent of a share computes it."""
        return training_size(self._account_size(share).value.data, self.training_share)

    def _facts(self, share: Share) -> ClientFacts:
        strict = self.job.simulation.encryption_required
        size = 0 if self.job.per_client else self._account_size(share).value.data
        return ClientFacts(share.name, size, self.training_share, strict, self.holds_out)

    def account(self, share: Share) -> Account:
        size = self._account_size(share)
        return Account(seeded_name(share.name), self.training_share, self.holds_out, size)

    def _account_size(self, share: Share) -> SeededSize:
        if self.holds_out and self.training_share == 1:
            held = apart(share.test, share.train, self.groups)
            counts = Sizes(units(share.train, self.groups), units(held, self.groups))
        else:
            counts = Sizes(units(np.concatenate([share.train, share.test]), self.groups))
        return SeededSize(self.job.seed, share.name, counts)

    def partition_event(self) -> Partition:
        """Who holds what, for metrics.jsonl."""
        labels = self._classes
        clients = {share.name: self._holdings(share, labels) for share in self.shares}
        return Partition(labels, clients, self.dropped, self.holdings())

    @property
    def _classes(self) -> list[str]:
        """Of records as a whole."""
        return list(self.job.data.labels or ()) if self.job.kind.classified else []

    def holdings(self) -> dict[str, Any]:
        """What the file holds, all clients together: for whoever brought it."""
        held = np.concatenate([np.r_[share.train, share.test] for share in self.shares])
        labels, names = np.asarray(self.store.labels)[held], self._classes
        counts = np.bincount(labels[labels >= 0], minlength=len(names))
        tested = np.concatenate([share.test for share in self.shares])
        of_tested = np.asarray(self.store.labels)[tested]
        tested_counts = np.bincount(of_tested[of_tested >= 0], minlength=len(names))
        most, lengths = self.job.model.max_length, np.diff(self.store.offsets)[held]
        return {
            "read": list(self.notes),
            "records": len(held),
            "held_out": len(tested),
            "classes": dict(zip(names, map(int, counts), strict=True)) if len(names) else {},
            "held_out_classes": dict(zip(names, map(int, tested_counts), strict=True)),
            "dropped": self.dropped,
            "groups": self._groups(held),
            "too_short": int(((lengths > 0) & (lengths < self.job.kind.shortest)).sum()),
            "longest": float((lengths >= most).mean())
            if self.job.kind.reads in ("texts", "spans")
            else 0.0,
            "max_length": most,
            "cut": self.cut,
            "look": list(self.look),
        }

    def _groups(self, held: np.ndarray) -> dict[str, int] | None:
        """How many groups there are, if they are what is protected, and the largest one's records."""
        if self.groups is None:
            return None
        sizes = np.unique(self.groups[held], return_counts=True)[1]
        return {
            "number": len(sizes),
            "largest": int(sizes.max()),
            "used": self.job.data.records_per_group,
            "missing": self.ungrouped,
        }

    def _holdings(self, share: Share, labels: list[str]) -> Held:
        held = np.asarray(self.store.labels)[share.train]
        counts = np.bincount(held[held >= 0], minlength=len(labels))
        by_class = {label: int(n) for label, n in zip(labels, counts, strict=True)}
        return Held(len(share.train), len(share.test), by_class)


def federate(job: Job, listener: Listener | None = None) -> Federation:
    """Build the virtual owners of a job. Raises ``DataError`` or ``JobError``."""
    listener = listener or Silent()
    scheme = parse_scheme(job.simulation.partition)
    listener.started("data", 0)
    corpus = load_corpus(job.data, job.task, scheme.column, grouped=job.per_group)
    groups, secret = groups_of(job, corpus), split_secret(job.seed)
    in_a_file = corpus.held_out is not None
    trained = 1.0 if in_a_file else 1 - job.data.test_fraction
    train, test = split_rows(corpus, trained, secret)
    train, repeated = _without_copies(corpus, train, test)
    shares = partition(corpus, train, test, job.simulation, job.seed, groups)
    tested = {share.name: apart(share.test, share.train, groups) for share in shares}
    if groups is not None:
        most = job.data.records_per_group
        tested = {
            name: counted(rows, groups, corpus.texts, most, secret) for name, rows in tested.items()
        }
    if corpus.label_names:
        data = job.data.model_copy(update={"labels": list(corpus.label_names)})
        job = job.model_copy(update={"data": data})
    store = _tokens(job, corpus, listener)
    lengths = np.diff(store.offsets)
    dialogues = job.kind.reads == "dialogues"
    faults = unread(
        job, [corpus.texts[n] for n in np.flatnonzero(lengths == 0)] if dialogues else []
    )
    if job.kind.shortest > 1 and not (lengths[train] >= job.kind.shortest).any():
        if dialogues:
            raise none_readable(job, faults)
        raise DataError(
            f"{job.data.path}: no training text has {job.kind.shortest} tokens, so the model has nothing "
            "to predict. Check data.text_column (--text-column), or set data.end_of_text = true."
        )
    if job.kind.reads == "texts":
        listener.started("texts", 0)
    # A dialogue that loses its first turns may be of any length then.
    texts = job.kind.reads in ("texts", "spans")
    full = texts and (lengths >= job.model.max_length).mean() > WORTH
    return Federation(
        job=job,
        store=store,
        groups=groups,
        shares=tuple(shares),
        tested=tested,
        training_share=trained,
        holds_out=in_a_file or trained < 1,
        dropped=corpus.dropped | faults | ({_COPIED: repeated} if repeated else {}),
        ungrouped=(corpus.groups or []).count(""),
        notes=corpus.notes,
        look=_concerns(corpus, job, scheme.column),
        cut=cut(job.kind, job.model, corpus.texts) if full or dialogues else {},
        samples=_samples(corpus, tested, lengths) if dialogues else (),
    )


def _concerns(corpus: Corpus, job: Job, client_column: str | None) -> tuple[str, ...]:
    labels = corpus.labels
    if labels is None:
        return tuple(concerns(corpus.texts, None))
    skip = [client_column] if client_column else []
    names = [corpus.label_names[label] for label in labels]
    return tuple(concerns(corpus.texts, names, telling_columns(job.data, skip)))


def _samples(
    corpus: Corpus, tested: Mapping[str, np.ndarray], lengths: np.ndarray
) -> tuple[str, ...]:
    """The first held-out dialogue of some owners that the model can read."""
    found = [next((row for row in rows if lengths[row] > 0), None) for rows in tested.values()]
    return tuple(corpus.texts[row] for row in found if row is not None)[:_SHOWN]


_SHOWN = 4
_COPIED = "the same text as a held-out record"


def _without_copies(corpus: Corpus, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, int]:
    """Training rows whose text is not held out as well, and how many are left out for that.

    A simulation has all records before it, and its data are those that are left. An owner's agent leaves
    out none: one held-out record more would change which others are trained on.
    """
    held = {corpus.texts[row] for row in test}
    kept = np.array([row for row in train if corpus.texts[row] not in held], dtype=train.dtype)
    if len(train) and not len(kept):
        raise DataError(
            "Every training text is held out too (data.test_path), so a test would only measure memory. "
            "Name a file with other records, or leave data.test_path out."
        )
    return kept, len(train) - len(kept)


def _tokens(job: Job, corpus: Corpus, listener: Listener) -> TokenStore:
    done = 0

    def heard(count: int) -> None:
        nonlocal done
        done += count
        listener.advanced(done)

    listener.started("tokens", len(corpus))
    with listening(heard):
        return tokens_of(job, corpus)
