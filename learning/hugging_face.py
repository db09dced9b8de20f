"""Calls into transformers and peft."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings of transformers and peft that are about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
