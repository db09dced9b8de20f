"""Calls into transformers, tokenizers, safetensors and peft: quiet, and every failure one sentence."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch

from ..errors import ModelError, UmbelError

_LONGEST, _SHORT = 300, 20
_UNFORESEEN = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, StopIteration, TypeError,
)  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings of transformers and peft that are about their own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is a ``ModelError`` that begins with `what`.

    These libraries raise every kind of exception, bare ones too, for a file that they cannot use.
    """
    try:
        with quiet():
            yield
    except UmbelError:
        raise
    except (torch.OutOfMemoryError, MemoryError):
        raise ModelError(f"{what}: there is not enough memory") from None
    except Exception as error:
        raise ModelError(f"{what}: {_explained(error)}") from None


def _explained(error: Exception) -> str:
    """What went wrong; of what these libraries did not foresee, also what it may come from."""
    said = first_line(error)
    if "ignore_mismatched_sizes" in said:
        return (
            "the sizes of its weights differ from its config.json (vocabulary, layers or positions), so "
            "they do not belong together"
        )
    if not isinstance(error, _UNFORESEEN):
        return said
    kind = type(error).__name__
    said = said if said.startswith(kind) else f"{kind}: {said}"
    return f"its files may be damaged, or made for another version of its library ({said})"


def first_line(error: BaseException) -> str:
    """What an exception says first, with its kind if that is all it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = lines[0]
    if said.endswith(":") and len(lines) > 1:
        said = f"{said} {lines[1]}"
    # "KeyError: 'x'" says more than "'x'".
    if len(said) < _SHORT:
        said = f"{type(error).__name__}: {said}"
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."
