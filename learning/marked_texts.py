"""Texts with marked spans as a network takes them in: tokens, and for the first one of a word its tag.

A word is what ``words`` says, whatever tokens it is cut into. Tags are BIO (Ramshaw and Marcus 1995): 0
outside of spans, 1 + 2k for the first word of a span of label k, 2 + 2k for a further one. A *unit* is a word
with those that share its first token, as some tokenizers join signs: it gets one tag.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from .batches import pad_rows
from .inputs import Texts, beginning
from .network import Batch
from .reading.names import label_name
from .spans import Marked, Span, marked, unmarked
from .tasks.task import Answer, FoundSpan
from .words import WORD, words_of

if TYPE_CHECKING:
    from ..job import Job

_ID, _MARK = 32, 16
"""Bits of a number in a row that say the token, and of those above them that say the tag."""
UNTAGGED = 1
"""The mark of a unit whose tag is not known: 2 + its tag marks any other, 0 what is no unit's first token."""


class Unit(NamedTuple):
    """What gets one tag: the place of its first token in the row, and its characters in the text."""

    place: int
    start: int
    end: int


class MarkedTexts(Texts):
    """A row is int64[tokens]: the token in the low 32 bits, above it a mark in 16, above that a missed span.

    A span that no tags can say is missed, whatever the model answers: one that goes beyond the longest row,
    or begins or ends within a token. The j-th one is said at place j of the row, as 1 + its label; there can
    be no more than places.
    """

    dtype = np.int64
    targets = True

    labels: tuple[str, ...] = ()

    @property
    def unknown(self) -> int | None:
        """None: no number of a row is a token alone."""
        return None

    def with_labels(self, labels: Sequence[str]) -> Self:
        found = copy.copy(self)
        found.labels = tuple(map(label_name, labels))
        return found

    def record(self, given: str) -> str:
        return unmarked(given)

    def encode(self, records: Sequence[str], limit: int, *, ends: bool = False) -> list[np.ndarray]:
        return [self._row(record, limit) for record in records]

    def _row(self, record: str, limit: int) -> np.ndarray:
        text, spans = marked(record)
        if not self.labels:
            spans = ()  # only lengths are asked for
        tokens, units = self._read(text, limit)
        row = np.array(tokens, np.int64)
        tags, missed = tagged(units, spans, self.labels)
        for unit, tag in zip(units, tags, strict=True):
            row[unit.place] |= (2 + tag if tag >= 0 else UNTAGGED) << _ID
        for place, label in enumerate(missed[: len(row)]):
            row[place] |= (1 + label) << (_ID + _MARK)
        return row

    def _read(self, text: str, limit: int) -> tuple[list[int], list[Unit]]:
        """The tokens of a text, at most `limit`, and the units that are seen of it."""
        part = beginning(text, self.tokenizer, limit)
        found = self.tokenizer(part, truncation=True, max_length=limit, return_offsets_mapping=True)
        cut = len(text) - len(part) if self.tokenizer.truncation_side == "left" else 0
        offsets = [(start + cut, end + cut) for start, end in found["offset_mapping"]]
        return found["input_ids"], units_of(text, offsets)

    def collate(
        self, rows: Sequence[np.ndarray], device: torch.device, length: int | None
    ) -> Batch:
        """Beside the tokens "targets", int64[rows, T]: marks and missed spans, 0 in the padding."""
        pad = int(self.tokenizer.pad_token_id)
        batch = pad_rows([row & (2**_ID - 1) for row in rows], pad, device, length)
        targets = torch.zeros_like(batch["input_ids"])
        for place, row in enumerate(rows):
            targets[place, : len(row)] = torch.from_numpy(row >> _ID).to(device)
        return batch | {"targets": targets}

    def invented(self, lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
        """Every token is a word, with a tag that follows from it."""
        tags = 1 + 2 * max(1, len(self.labels))
        return [row | ((2 + row % tags) << _ID) for row in super().invented(lengths, seed)]

    def padded_otherwise(self, batch: Batch) -> Batch:
        ids, (other,) = batch["input_ids"], super().invented([64], seed=3)
        drawn = torch.from_numpy(np.resize(other, ids.shape)).to(ids.device)
        return batch | {"input_ids": torch.where(batch["attention_mask"] == 0, drawn, ids)}

    def costliest(self, largest: int) -> tuple[list[str], float]:
        """Of short words, each a span; and of signs, several of which a tokenizer may join, so that spans end
        within tokens."""
        label = self.labels[0] if self.labels else "?"
        return [
            Marked(
                word * largest,
                tuple(Span(at, at + 1, label) for at in range(0, len(word) * largest, len(word))),
            ).record()
            for word in ("a ", "-")
        ], 1.0

    def fit(self, backbone: nn.Module, base: str) -> None:
        super().fit(backbone, base)
        if not self.tokenizer.is_fast:
            raise ModelError(
                f"{base} has a tokenizer that does not say where its tokens stand in a text, so words cannot "
                "be found again. Use a base model with a tokenizer.json."
            )

    def told(self, record: str, answer: Answer, limit: int) -> Answer:
        """The tags of places as spans of the record's text, each as likely as its least likely tag."""
        if answer.places is None:
            return answer
        text, _ = marked(record)
        _, units = self._read(text, limit)
        if not units:
            return Answer(spans=(), text=text)
        chances, tags = answer.places[[unit.place for unit in units]].max(-1)
        return Answer(
            spans=tuple(
                FoundSpan(
                    text[units[first].start : units[last].end],
                    units[first].start,
                    units[last].end,
                    self.labels[label],
                    float(chances[first : last + 1].min()),
                )
                for first, last, label in decoded(tags.tolist())
            ),
            text=text,
        )

    def card(self, job: Job) -> dict[str, Any]:
        return super().card(job) | {"word": WORD}


def tags_of(targets: Tensor) -> Tensor:
    """The tag of each place of a batch's "targets": -1 if it is not known, -2 where no unit begins."""
    return (targets & (2**_MARK - 1)) - 2


def missed_of(targets: Tensor) -> Tensor:
    """The labels of missed spans, wherever they stand; -1 elsewhere."""
    return (targets >> _MARK) - 1


def units_of(text: str, offsets: Sequence[tuple[int, int]]) -> list[Unit]:
    """The units of a text of which `offsets` says where each token stands; (0, 0) if nowhere.

    Words that no token stands for, such as those beyond the longest row, are in none.
    """
    seen: dict[int, int] = {}
    for place, (start, end) in enumerate(offsets):
        for character in range(start, end):
            seen.setdefault(character, place)
    units: list[Unit] = []
    earliest = min(seen, default=len(text))
    for start, end in words_of(text, max((end for _, end in offsets), default=0), earliest):
        first = seen.get(start)
        if first is not None and units and units[-1].place == first:
            units[-1] = units[-1]._replace(end=end)
        elif first is not None:
            units.append(Unit(first, start, end))
    return units


def tagged(
    units: Sequence[Unit], spans: Sequence[Span], labels: Sequence[str]
) -> tuple[list[int], list[int]]:
    """The tag of each unit, -1 where a missed span has a part of it; and the labels of missed spans."""
    number = {label: k for k, label in enumerate(labels)}
    starts = {unit.start: at for at, unit in enumerate(units)}
    ends = {unit.end: at for at, unit in enumerate(units)}
    behind = [unit.end for unit in units]
    tags, missed = [0] * len(units), []
    for span in spans:
        if span.start in starts and span.end in ends:
            first, last = starts[span.start], ends[span.end]
            inside = 2 + 2 * number[span.label]
            tags[first : last + 1] = [inside - 1] + [inside] * (last - first)
    for span in spans:
        if span.start not in starts or span.end not in ends:
            missed.append(number[span.label])
            for at in range(bisect_right(behind, span.start), len(units)):
                if units[at].start >= span.end:
                    break
                tags[at] = -1
    return tags, missed


def decoded(tags: Sequence[int]) -> list[tuple[int, int, int]]:
    """Spans of tags, as first and last place and label; a further word without a first one is in none.

    As entities are told by ``seqeval`` in its strict mode for IOB2.
    """
    spans: list[tuple[int, int, int]] = []
    going_on = -1
    for at, tag in enumerate(tags):
        label, further = divmod(tag - 1, 2)
        if tag > 0 and not further:
            spans.append((at, at, label))
            going_on = label
        elif tag > 0 and label == going_on:
            spans[-1] = (spans[-1][0], at, label)
        else:
            going_on = -1
    return spans
