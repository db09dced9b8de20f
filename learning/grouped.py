"""The groups of a data set, if it is groups that a job protects, and the records they are tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..job import Job
from ..privacy.dpsgd.groups import first_of_each, numbered
from ..privacy.noise.counts_noise import GROUP_COUNTS
from .data import Corpus
from .examples import Examples, TokenStore


def groups_of(job: Job, corpus: Corpus) -> np.ndarray | None:
    """Each row's group as a number; None unless the job protects groups.

    A row without a group is one of its own, which no named group can be. Raises ``DataError`` if
    no column says which rows belong together.
    """
    if not job.per_group:
        return None
    if corpus.groups is None:
        raise DataError(
            'privacy.unit = "group" protects all records of one group, but no column says which '
            "records form a group: set data.group_column."
        )
    return numbered(corpus.groups)


def units(rows: np.ndarray, groups: np.ndarray | None) -> int:
    """How many there are of what is protected in these rows: records, or groups if there are any."""
    return len(rows) if groups is None else len(np.unique(groups[rows]))


def grouped(store: TokenStore, rows: np.ndarray, groups: np.ndarray | None) -> Examples:
    """These rows but those without tokens, and their groups, if `groups` has one for each row of all."""
    return Examples(store, rows, groups=None if groups is None else groups[rows]).readable()


def apart(rows: np.ndarray, train: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Held-out `rows` but those of a group that is trained on: a group is on one side only.

    So it is if the split is made by hashes; a file of held-out records may hold anything.
    """
    return rows if groups is None else rows[~np.isin(groups[rows], groups[train])]


def counted(
    rows: np.ndarray, groups: np.ndarray, texts: Sequence[str], most: int, secret: bytes
) -> np.ndarray:
    """Those of the held-out `rows` that tests use: at most `most` of each group, and no more than 64.

    Which ones is the owner's choice, by a hash of their texts under its `secret`: always the same, so
    that the figures of two rounds compare, and nothing that a job could choose. It depends on no
    other group. In a test all groups weigh the same (``Examples.weights``).
    """
    ranks = [hashlib.blake2b(texts[row].encode(), key=secret).digest() for row in rows]
    return rows[first_of_each(groups[rows], ranks, min(most, GROUP_COUNTS))]
