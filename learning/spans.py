"""Texts with marked spans, such as names in a letter: how a table says them, and the one form of a record.

A span is ``(start, end, label)``: characters (Unicode code points) of the text from `start` up to `end`. A
table says them in one of two ways:

- the text, and a list of spans: objects ``{"start": 0, "end": 5, "label": "NAME"}`` or ``[0, 5, "NAME"]``;
- a list of words, and a list of as many tags: BIO, BIOES or BILOU (``B-NAME``), or IO (``I-NAME`` or the
  label alone). The words are joined by single blanks.

Guarantee: what becomes of a record follows from its own two cells and from the named labels, from no other
record. The time that this takes grows with the length of the cells, whatever spans they hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ..errors import DataError
from ..quantities import counted, quoted
from .reading.cells import is_whole, whole
from .reading.names import clean_text, label_name
from .words import cuts_word, word_around

_TAG = re.compile(r"([BIESLUM])[-_](.*)", re.DOTALL)
_BLANKS = re.compile(r"\s*")
_OUTSIDE = "O"
MOST_SPANS = 4096
"""Of one record: by so many an owner's agent plans how long records take to be read."""
_ALONE, _BEGINS, _ENDS = "SU", "BSU", "ELSU"


class Span(NamedTuple):
    """Characters of a text from `start` up to `end`, and what they are."""

    start: int
    end: int
    label: str


class Marked(NamedTuple):
    """A clean text with its spans, in order; they do not overlap, and begin and end with words."""

    text: str
    spans: tuple[Span, ...]

    def record(self) -> str:
        """One string, from which ``marked`` reads the same.

        Raises ``DataError`` for one that has no bytes in UTF-8.
        """
        value = {"text": self.text, "spans": self.spans}
        return whole(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def marked(record: str) -> Marked:
    """Inverse of ``Marked.record``."""
    found = json.loads(record)
    return Marked(found["text"], tuple(Span(*span) for span in found["spans"]))


def unmarked(text: str) -> str:
    """The record of a text, or of a list of words in JSON, of which no spans are known; empty if it says
    nothing, or holds what is no character."""
    words = _list(text)
    if words and all(isinstance(word, str) for word in words):
        text = " ".join(filter(None, map(clean_text, words)))
    cleaned = clean_text(text)
    return Marked(cleaned, ()).record() if cleaned and is_whole(cleaned) else ""


def labels_of(records: Iterable[str]) -> set[str]:
    """The labels of all spans."""
    return {span.label for record in records for span in marked(record).spans}


def marked_from(
    text: str, given: str, known: set[str], read: Callable[[str], str] = label_name
) -> Marked:
    """The record of the two cells of a row, in which a list stands as JSON.

    known: names that are labels as they stand, such as ``B-cell``. read: what a label's canonical name is
    read as. Raises ``DataError`` without the place, which its caller knows.
    """
    marks = _list(given)
    if marks is None:
        raise DataError(
            f"it has {quoted(given)} in place of a list of spans or tags. Write "
            '[{"start": 0, "end": 5, "label": "NAME"}], or a tag for each word.'
        )
    words = _list(text)
    if words is not None and all(isinstance(word, str) for word in words) and _are_tags(marks):
        return _from_tags(words, marks, known, read)
    if marks and _are_tags(marks):
        raise DataError(
            f"it has {counted(len(marks), 'tag')} and a text that is no list of words. Give a list of words, "
            "or spans of characters."
        )
    return _from_spans(text, marks, read)


def _list(cell: str) -> list[Any] | None:
    """The list that a cell holds as JSON; None for anything else."""
    if not cell.lstrip().startswith("["):
        return None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _are_tags(marks: list[Any]) -> bool:
    return all(isinstance(mark, str | None) for mark in marks)


def _from_tags(
    words: list[str], tags: list[str | None], known: set[str], read: Callable[[str], str]
) -> Marked:
    if len(words) != len(tags):
        raise DataError(
            f"it has {counted(len(words), 'word')} and {counted(len(tags), 'tag')}. Give one tag for each "
            "word."
        )
    clean = [clean_text(word) for word in words]
    if not all(clean):
        raise DataError(f"its word {clean.index('') + 1} is empty. Leave such words out.")
    starts, at = [], 0
    for word in clean:
        starts.append(at)
        at += len(word) + 1
    text = " ".join(clean)
    spans: list[Span] = []
    going_on = ""  # the label of a span that may go on
    for place, (tag, word, start) in enumerate(zip(tags, clean, starts, strict=True), start=1):
        position, label = _tag(tag, place, known)
        label = read(label_name(label))
        if not label:
            going_on = ""
            continue
        if going_on == label and position not in _BEGINS:
            spans[-1] = spans[-1]._replace(end=start + len(word))
        else:
            spans.append(Span(start, start + len(word), label))
        going_on = "" if position in _ENDS else label
    return _checked(text, spans)


def _tag(tag: str | None, place: int, known: set[str]) -> tuple[str, str]:
    """Where in a span a word stands, and the span's label; no label outside of spans."""
    name = clean_text(tag)
    if not name or name == _OUTSIDE:
        return _OUTSIDE, ""
    found = _TAG.fullmatch(name)
    if found is None or label_name(name) in known:
        return "I", name
    if not found[2].strip():
        raise DataError(
            f"its word {place} has the unknown tag {quoted(name)}. Tags are O, B-NAME and I-NAME (or E- and "
            "S-, as in BIOES)."
        )
    return found[1], found[2]


def _from_spans(given: str, marks: list[Any], read: Callable[[str], str]) -> Marked:
    _refuse_many(len(marks))
    text = clean_text(given)
    found = _stripped(given, [_span(given, mark, read) for mark in marks])
    # Before any is cut out of the text: together they are then no longer than it.
    for before, span in pairwise(found):
        if span.start < before.end:
            one, other = (quoted(given[s.start : s.end]) for s in (before, span))
            raise DataError(f"its spans {one} and {other} overlap. Keep one of them.")
    if text != given:
        found = _moved(found, given, text)
    return _checked(text, found)


def _refuse_many(spans: int) -> None:
    if spans > MOST_SPANS:
        raise DataError(
            f"it has {spans:,} spans, but at most {MOST_SPANS:,} are read. Cut the text into parts."
        )


def _span(given: str, mark: Any, read: Callable[[str], str]) -> Span:
    """A span of the text as it was given."""
    values = mark
    if isinstance(mark, dict):
        values = [mark.get(key) for key in ("start", "end", "label")]
    sound = isinstance(values, list) and len(values) == 3
    if not sound or not all(type(value) is int for value in values[:2]):
        raise DataError(
            f"it has {quoted(json.dumps(mark, ensure_ascii=False))} in place of a span. Write "
            '{"start": 0, "end": 5, "label": "NAME"}: characters, counted from 0.'
        )
    start, end, label = values
    if not 0 <= start < end <= len(given):
        raise DataError(
            f"its span from {start} to {end} is empty, or not within its text of "
            f"{counted(len(given), 'character')}. Count characters from 0; the end is not included."
        )
    name = read(label_name(str(label) if isinstance(label, str | int) else None))
    if not name:
        raise DataError(f"its span from {start} to {end} has no label. Name it, or leave it out.")
    return Span(start, end, name)


def _stripped(given: str, spans: Sequence[Span]) -> list[Span]:
    """The spans in order, without the blanks around them."""
    length = len(given)
    starts = _behind_blanks(given, {span.start for span in spans})
    ends = _behind_blanks(given[::-1], {length - span.end for span in spans})
    found = []
    for span in spans:
        start, end = starts[span.start], length - ends[length - span.end]
        if start >= end:
            raise DataError(
                f"its span from {span.start} to {span.end} holds no text. Mark whole words."
            )
        found.append(Span(start, end, span.label))
    return sorted(found)


def _behind_blanks(text: str, places: Iterable[int]) -> dict[int, int]:
    """For each place the first one, from it on, at which there is no blank; each blank is looked at once."""
    found, behind = {}, 0
    for place in sorted(places):
        if place >= behind:
            seen = _BLANKS.match(text, place)
            behind = seen.end() if seen else place
        found[place] = behind
    return found


def _moved(spans: Sequence[Span], given: str, text: str) -> list[Span]:
    """Spans of the text as it was given, in order, in the clean text: which may be shorter before them.

    In one pass, whatever their number. A span that cuts a character in two is a ``DataError``.
    """
    ends = sorted({place for span in spans for place in span[:2]})
    length = -(len(composed := _composed(given)) - len(composed.lstrip()))
    places, last = {}, 0
    for place in ends:
        length += len(_composed(given[last:place]))
        places[place], last = length, place
    moved = [Span(places[start], places[end], label) for start, end, label in spans]
    for before, span in zip(spans, moved, strict=True):
        if text[span.start : span.end] != _composed(given[before.start : before.end]):
            raise DataError(
                f"its span from {before.start} to {before.end} cuts a character in two. Mark whole words."
            )
    return moved


def _composed(text: str) -> str:
    """As ``clean_text``, with the blanks around it."""
    return clean_text(f"|{text}|")[1:-1]


def _checked(text: str, spans: Sequence[Span]) -> Marked:
    """Refuse what does not begin and end with words, by a look at the text around each end alone."""
    _refuse_many(len(spans))
    for span in spans:
        within = next((place for place in span[:2] if cuts_word(text, place)), None)
        if within is not None:
            shown, whole = quoted(text[span.start : span.end]), quoted(word_around(text, within))
            raise DataError(
                f"its span {shown} begins or ends within a word ({whole}). Mark whole words."
            )
    return Marked(text, tuple(spans))
