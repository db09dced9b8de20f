"""Groups of records that belong to one person, and how a private step draws them.

A step draws whole groups, and gives each the weight of one record however many it has. So one group
more or less moves a clipped sum as far as one record does under record-level privacy, and the same
accounting holds with groups in place of records.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..randomness import SecretStream, poisson_sample

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """The records of one step, ascending, and what each one's clipped gradient is multiplied by."""

    records: Ints
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Groups:
    """Which records belong together: equal numbers in `of_record` (int64[n]) are one group.

    The numbers themselves mean nothing: groups are in the order in which they first appear.
    """

    of_record: Ints

    def __len__(self) -> int:
        return len(self._starts) - 1

    @cached_property
    def sizes(self) -> Ints:
        """Records of each group, int64[groups]."""
        return np.diff(self._starts)

    def sample(self, rate: float, most: int, stream: SecretStream) -> Drawn:
        """Draw each group independently with probability `rate`; at most `most` records of each.

        Which records of a larger group are taken is drawn again each time, evenly, and independently
        of other groups. Each record weighs 1 / (records taken of its group).

        Guarantee: if every record's gradient is clipped to norm C, one group more or less moves
        their weighted sum by at most C, with probability `rate`, and by nothing otherwise: a drawn
        group adds the mean of at most `most` vectors within C (triangle inequality), and neither
        the draw nor the weights of another group depend on it. So a step is the Poisson-sampled
        Gaussian mechanism of ``accounting`` for groups, with no more noise than for records.

        The same noise covers one record more or less in a group that stays, if `most` is 2 or more:
        with the other records' draws held equal, the group's mean of m records changes by at most
        2 C / max(2, m), because one of its m vectors changes or joins. That is within C, and a
        shift by at most C between two vectors within C costs no more than one from zero (Balle,
        Barthe and Gaboardi 2018, Theorem 2, advanced joint convexity). With `most` = 1 it would be 2 C.

        Assumptions: those of ``poisson_sample``; `rate` and `most` do not depend on the records.
        """
        if most < 1:
            raise ValueError(f"At least one record of a group must be taken, not {most}.")
        drawn = poisson_sample(len(self), rate, stream)
        sizes = self.sizes[drawn]
        place = _places(sizes)
        records = self._order[np.repeat(self._starts[drawn], sizes) + place]
        owner = np.repeat(np.arange(len(drawn)), sizes)
        lot = np.lexsort((stream.uniform(len(records)), owner))
        # Sorted by group and lot, the first records of each group are a random choice of it.
        taken = lot[place < most]
        order = np.argsort(records[taken])
        weights = 1.0 / np.minimum(sizes, most)[owner[taken]]
        return Drawn(records[taken][order], weights[order])

    @cached_property
    def _first(self) -> tuple[Ints, Ints]:
        """Each record's group, numbered by first appearance, and each group's number of records."""
        _, first, numbers, sizes = np.unique(
            self.of_record, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return rank[numbers].astype(np.int64), sizes[order].astype(np.int64)

    @cached_property
    def _order(self) -> Ints:
        """All records, group after group."""
        return np.argsort(self._first[0], kind="stable").astype(np.int64)

    @cached_property
    def _starts(self) -> Ints:
        """Where each group starts in ``_order``, and at the end the number of records."""
        return np.concatenate([[0], np.cumsum(self._first[1])]).astype(np.int64)


def numbered(names: Sequence[Hashable]) -> Ints:
    """A number for each record, equal if the names are; an empty name is a group of its own.

    Numbers of records without a name are negative, so they never equal that of a named group.
    """
    known: dict[Hashable, int] = {}
    return np.array(
        [
            known.setdefault(name, len(known)) if name else -1 - row
            for row, name in enumerate(names)
        ],
        dtype=np.int64,
    )


def first_of_each(of_record: Ints, rank: Sequence[bytes], most: int) -> Ints:
    """Records in the order given that are among the first `most` of their group by `rank`.

    Which records of a group these are depends on the ranks in this group alone.
    """
    by_rank = sorted(range(len(of_record)), key=lambda record: rank[record])
    order = np.array(by_rank, dtype=np.int64)
    order = order[np.argsort(of_record[order], kind="stable")]
    _, sizes = np.unique(of_record, return_counts=True)
    return np.sort(order[_places(sizes) < most])


def shared(of_record: Ints, whole: int) -> Ints:
    """`whole` dealt out evenly to the records of each group: int64[n], at least 0, differing by one.

    The records of a group together always have exactly `whole`.
    """
    order = np.argsort(of_record, kind="stable")
    _, sizes = np.unique(of_record, return_counts=True)
    parts, rest = np.divmod(whole, sizes)
    found = np.empty(len(of_record), dtype=np.int64)
    found[order] = np.repeat(parts, sizes) + (_places(sizes) < np.repeat(rest, sizes))
    return found


def _places(sizes: Ints) -> Ints:
    """0, 1, ... for the records of each group, group after group."""
    ends = np.cumsum(sizes)
    return np.arange(int(sizes.sum())) - np.repeat(ends - sizes, sizes)
