"""A survey in words: what there is, what to look at again, and what to set."""

from __future__ import annotations

from dataclasses import dataclass

from ..quantities import counted, verb
from ..tasks.spec import usual_task
from .concerns import concern_lines
from .holdings import FEW, left_out_text
from .lengths import MOST_UNKNOWN, WORTH
from .survey import Survey

_NAMED = 8
_ROWS_OF_A_CLASS = 3
"""Fewer rows on average are those of a person or a document, or of too many classes to learn."""
_NO_TEXTS: dict[str, str] = {
    "identifier": "identifiers",
    "number": "numbers",
    "dates": "dates",
    "classes": "classes",
    "one value": "one value in all rows",
}
"""What a column may seem to hold instead of texts, in words."""


@dataclass(frozen=True)
class Advice:
    """One thing to do: why, the key of a job file that does it, and the flag, if there is one."""

    why: str
    key: str = ""
    flag: str = ""

    def __str__(self) -> str:
        how = " or ".join(part for part in (self.flag, self.key and f"--set {self.key}") if part)
        return f"{self.why}: {how}" if how else self.why


def facts(found: Survey) -> list[tuple[str, str]]:
    """What there is: a title and a line for each."""
    dropped = left_out_text(found.dropped)
    lines = [
        (
            "records",
            f"{found.used:,} of {counted(found.rows, 'row')}"
            + (f"; left out: {dropped}" if dropped else ""),
        )
    ]
    lines += [("read" if not at else "", note) for at, note in enumerate(found.notes)]
    lines.append(("text", f"column {found.text_column!r}"))
    if found.label_column:
        lines.append(("label", f"column {found.label_column!r}, {_classes(found.classes)}"))
    of = found.copies
    lines.append(
        (
            "copies",
            f"{counted(of.equal, 'row')} {verb(of.equal, 'repeats', 'repeat')} a text; "
            f"{of.nearly:,} more {verb(of.nearly, 'differs', 'differ')} only in spaces, signs or case",
        )
    )
    if found.lengths is not None:
        q = found.lengths.quantile
        longest = f"{q(1.0):,}" + (" or more" if q(1.0) >= found.lengths.longest_read else "")
        lines.append(
            (
                "tokens",
                f"half of the texts have at most {q(0.5):,}, 90 % at most {q(0.9):,}, the longest "
                f"{longest}; {found.lengths.share_cut(found.max_length):.1%} are cut at "
                f"model.max_length = {found.max_length}",
            )
        )
    else:
        half, most, longest_text = found.characters
        lines.append(
            (
                "length",
                f"half of the texts have at most {half:,} characters, 90 % at most {most:,}, the longest "
                f"{longest_text:,}. Tokens were not counted: {found.no_lengths}",
            )
        )
    return lines


def warnings(found: Survey) -> list[str]:
    """What to look at again in the file itself."""
    lines = []
    if found.unusable:
        lines.append(f"The file cannot be used as it is. {found.unusable}")
    if found.lengths is not None and found.lengths.unknown > MOST_UNKNOWN:
        lines.append(
            f"{found.lengths.unknown:.0%} of the tokens stand for characters that {found.base} does not "
            "know: it was made for another language. Choose a base model that reads this one (--model, "
            "model.base)."
        )
    if found.used < found.rows / 2:
        why = left_out_text(found.dropped)
        lines.append(
            f"Most rows are left out ({why}). Check the columns, and the notes above on how the file was "
            "read."
        )
    if found.lists:
        lines.append(
            "These columns hold lists of several values, or bytes, which are not read: "
            f"{', '.join(map(repr, found.lists))}. Write one value per record into a column of its own."
        )
    if found.as_value:
        names = ", ".join(map(repr, found.as_value))
        lines.append(
            f"The first row names a column {names}, which is also a value in other rows. If the first row "
            "is a record, it is lost: add a row with names above it, such as text,label."
        )
    lines += concern_lines(
        found.odd,
        found.copies,
        found.giveaways,
        found.classes,
        found.texts_of_nothing,
        found.tellers,
    )
    rare = [name for name, count in found.classes.items() if count < FEW]
    if rare:
        lines.append(
            f"{len(rare)} of {counted(len(found.classes), 'class')} "
            f"{verb(len(rare), 'has', 'have')} fewer than {FEW} records, such as "
            f"{rare[0]!r:.60}: too few to learn or to test. Merge them, or check the label column."
        )
    if found.classes and found.used:
        name, count = next(iter(found.classes.items()))
        if len(found.classes) > 1 and count / found.used > 0.9:
            lines.append(
                f"{count / found.used:.0%} of the records are {name!r:.60}: accuracy means little "
                "here; use F1 and the figures of each class."
            )
    return lines


def advice(found: Survey) -> list[Advice]:
    """What to set, and why."""
    found_advice = []
    if found.text_column in found.guessed:
        found_advice.append(
            Advice(
                "The texts seem to be in this column",
                f"data.text_column={_quoted(found.text_column)}",
                f"--text-column {_quoted(found.text_column)}",
            )
        )
    kinds = {column.name: column.kind for column in found.columns}
    others = [name for name, kind in kinds.items() if kind == "text" and name != found.text_column]
    if others and kinds.get(found.text_column) in _NO_TEXTS:
        held = _NO_TEXTS[kinds[found.text_column]]
        found_advice.append(
            Advice(
                f"Column {found.text_column!r} seems to hold {held}, and {others[0]!r} the texts",
                f"data.text_column={_quoted(others[0])}",
                f"--text-column {_quoted(others[0])}",
            )
        )
    if found.label_column in found.guessed:
        found_advice.append(
            Advice(
                "The classes seem to be in this column",
                f"data.label_column={_quoted(found.label_column)}",
                f"--label-column {_quoted(found.label_column)}",
            )
        )
    for name, determined_by in found.candidates.items():
        leaks = ", ".join(
            f"{other!r} in {share:.1%} of the rows" for other, share in determined_by.items()
        )
        also = f" (determined by {leaks}: make sure that the texts do not repeat that)"
        found_advice.append(
            Advice(
                f"Column {name!r} may hold the classes{also if leaks else ''}",
                f"data.label_column={_quoted(name)}",
                f"--label-column {_quoted(name)}",
            )
        )
    if not found.label_column and not found.candidates and not found.unusable:
        coded = [
            Advice(
                f"Column {name!r} may hold many classes ({of['values']:,.0f} values)",
                f"data.label_column={_quoted(name)}",
                f"--label-column {_quoted(name)}",
            )
            for name, of in found.groups.items()
            if of["mean"] >= _ROWS_OF_A_CLASS
        ]
        found_advice += coded
        found_advice.append(
            Advice(
                "If none does, for a language model"
                if coded
                else "No column seems to hold classes; for a language model",
                "",
                f"--task {usual_task(labelled=False).name}",
            )
        )
    lengths = found.lengths
    if lengths is not None and lengths.share_cut(found.max_length) > WORTH:
        longer = lengths.fitting(found.max_length)
        found_advice.append(
            Advice(
                f"{lengths.share_cut(found.max_length):.0%} of the texts are cut; of {longer} tokens "
                f"{lengths.share_cut(longer):.0%} would be, at about {longer / found.max_length:.1f} times "
                "the time",
                f"model.max_length={longer}",
            )
        )
    for name, of in found.groups.items():
        if found.group_column != name and of["mean"] >= 1.2:
            found_advice.append(
                Advice(
                    f"Column {name!r} repeats ({of['values']:,.0f} values, {of['mean']:.1f} rows "
                    f"each on average, {of['largest']:,.0f} at most). If it identifies a person "
                    "or a document, keep its rows on one side of the split (and protect it "
                    'whole: privacy.unit = "group")',
                    f"data.group_column={_quoted(name)}",
                )
            )
    return found_advice


def _classes(classes: dict[str, int]) -> str:
    named = ", ".join(f"{name} ({count:,})" for name, count in list(classes.items())[:_NAMED])
    more = len(classes) - _NAMED
    return f"{counted(len(classes), 'class')}: {named}" + (f" and {more} more" if more > 0 else "")


def _quoted(name: str) -> str:
    return (
        name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else f"'{name}'"
    )
