"""Records that the model fails on: taken one by one, and left out.

Whether there is an answer must not depend on a record. So what fails for many is done again for each
of them alone, and who fails alone contributes nothing: no gradient, no counts, no features.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

Touch = Callable[[int], None]
"""Called with the row, in its store, of the record that is used next."""

NOBODY = -1
"""Called when no record is in use any more."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


def one_by_one(chunk: np.ndarray, error: Exception) -> Iterator[np.ndarray]:
    """The records of a batch that failed, each as a batch of its own; none if it failed alone."""
    if len(chunk) == 1:
        _log_left_out(error)
        return
    _log.info("%d records failed together and are taken one by one: %s", len(chunk), error)
    for at in range(len(chunk)):
        yield chunk[at : at + 1]


@contextlib.contextmanager
def left_out_if_it_fails() -> Iterator[None]:
    """Around the use of one record."""
    try:
        yield
    except Exception as error:
        _log_left_out(error)


def each(compute: Callable[[np.ndarray], Iterable[T]], chunk: np.ndarray) -> Sequence[T | None]:
    """One result for each record of a batch, computed together if that works; None for a failure."""
    try:
        return list(compute(chunk))
    except Exception as error:
        found: list[T | None] = []
        if len(chunk) == 1:
            _log_left_out(error)
            return [None]
        for one in one_by_one(chunk, error):
            found.extend(each(compute, one))
        return found


def _log_left_out(error: Exception) -> None:
    # For the owner's own log: that there is such a record is a secret.
    _log.warning("a record was left out, because the model fails on it: %s", error)
