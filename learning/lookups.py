"""Tables that are asked for rows they do not have: one sentence, before a GPU gives up for good."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..errors import ModelError


@contextlib.contextmanager
def checked_lookups(network: nn.Module, max_length: int) -> Iterator[None]:
    """Raise ``ModelError`` instead of reading beyond a table: token ids, or positions of long texts.

    On a GPU such a read ends the process's use of the device, so it is looked at before it is made.
    """

    def check(table: nn.Embedding, inputs: tuple[Any, ...]) -> None:
        asked = int(inputs[0].max()) if inputs and inputs[0].numel() else 0
        if asked >= table.num_embeddings:
            raise ModelError(
                f"model.max_length = {max_length}: a table of the base model ({names[table]}) has "
                f"{table.num_embeddings} rows, and row {asked} is needed. Positions beyond the last need "
                "a smaller model.max_length (some models have a few fewer than their configuration "
                "says); token ids beyond it, the tokenizer that belongs to the model."
            )

    names = {m: name for name, m in network.named_modules() if isinstance(m, nn.Embedding)}
    hooks = [table.register_forward_pre_hook(check) for table in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
