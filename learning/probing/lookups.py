"""Tables that are asked for rows they do not have: an error before a GPU gives up for good."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_EMBEDDINGS = (torch.nn.functional.embedding, torch.embedding)


def checked_lookups(device: torch.device) -> AbstractContextManager[object]:
    """As ``CheckedLookups`` if that is needed: a CPU raises ``IndexError`` by itself."""
    return contextlib.nullcontext() if device.type == "cpu" else CheckedLookups()


class CheckedLookups(TorchFunctionMode):
    """Raises ``IndexError`` instead of reading beyond a table: token ids, or positions of long texts.

    On a GPU such a read ends the process's use of the device, so it is looked at before it is made.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in _EMBEDDINGS:
            first, second = (*args, named.get("input"), named.get("weight"))[:2]
            ids, table = (second, first) if func is torch.embedding else (first, second)
            if isinstance(ids, Tensor) and isinstance(table, Tensor) and ids.numel():
                _check(ids, table)
        return func(*args, **named)


def _check(ids: Tensor, table: Tensor) -> None:
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= len(table):
        wrong = least if least < 0 else most
        raise IndexError(f"row {wrong} of a table of {len(table)} rows is needed")
