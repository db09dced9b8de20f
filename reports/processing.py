"""The record of processing: what somebody who answers for data writes down of a job, as values.

Its parts follow what a record under Article 30 of the GDPR speaks of. Everything in it comes from the
plan, the ledger, the policy or the certificate; what none of them knows is an empty line for a person to
fill in, and nothing is guessed. ``processing_page`` makes a page of it, ``processing_pdf`` a PDF.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from ..foreign import shown
from ..job import Job
from ..quantities import delta_text, epsilon_text
from .tables import encryption_line

_LONGEST = 3000
"""At most this many characters per entry, so that the page can be printed."""


@dataclass(frozen=True)
class Entry:
    """One line: what it is about, and what is known; None is an empty line to fill in."""

    name: str
    text: str | None = None
    hint: str = ""
    """What belongs into an empty line."""

    @classmethod
    def known(cls, name: str, value: object) -> Self:
        """Whatever others wrote in it, only what is printed stands in the record."""
        return cls(shown(name, longest=200), shown(value, longest=_LONGEST))

    @classmethod
    def blank(cls, name: str, hint: str = "") -> Self:
        return cls(name, None, hint)


@dataclass(frozen=True)
class Part:
    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class ProcessingRecord:
    """A record of one job at one owner, to be completed and signed."""

    job: str
    run: str
    owner: str
    """Empty if the record is not about one owner."""
    state: str
    made: str
    """When it was drawn up; local, as people read it."""
    parts: tuple[Part, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def blanks(self) -> int:
        return sum(entry.text is None for part in self.parts for entry in part.entries)


@dataclass(frozen=True)
class Promise:
    """What is promised to one owner, and what it has cost."""

    sentence: str
    """Empty: it is not known."""
    plainly: str
    planned: float | None
    most: float | None
    spent: float | None
    delta: float | None
    seeded: bool = False
    """Anyone who knows the seed can repeat the noise, so nothing is private."""


def who(owner: str, operator: Iterable[Entry] = ()) -> Part:
    """Who answers for the data."""
    return Part(
        "Who is responsible",
        (
            Entry.known("Controller", owner) if owner else Entry.blank("Controller", "name"),
            Entry.blank("Contact", "address, telephone, e-mail"),
            Entry.blank("Representative", "if there is one"),
            Entry.blank("Data-protection officer", "name and contact"),
            Entry.blank("Joint controllers", "names and contact; who answers for what"),
            *operator,
        ),
    )


def purpose(job: Job, done: str = "") -> Part:
    """What the data are used for: Umbel knows what is learned, and people know what for."""
    labels = ", ".join(job.data.labels or ())
    entries = [
        Entry.blank("Purpose", "what the model is for, and who will use it"),
        Entry.blank("Legal basis"),
        Entry.known("What is learned", f"{job.task}{f': {labels}' if labels else ''}"),
        Entry.known("Base model", job.model.base),
        Entry.known("What is trained", f"{job.adapter}, by {job.strategy.name}"),
        Entry.known("Extent", done or f"{job.training.rounds:,} rounds are planned"),
        Entry.known("SHA-256 of the job", job.digest()),
    ]
    return Part("Purpose", tuple(entries))


def data(known: Iterable[Entry]) -> Part:
    return Part(
        "Data",
        (
            Entry.blank("Persons concerned", "such as patients, customers, employees"),
            Entry.blank("Categories of personal data", "what the texts are about"),
            Entry.blank("Special categories", "such as health; none?"),
            *known,
        ),
    )


def recipients(job: Job, seen: str, members: str, result: str) -> Part:
    """Who receives what of it. seen: what the server can read, in one sentence; empty: not known."""
    unit = job.privacy.unit
    noised = "" if unit == "none" else ", with the noise that the guarantee speaks of"
    return Part(
        "Recipients",
        (
            Entry.known(
                "The records themselves", "nobody: they are read only on the owner's machine"
            ),
            Entry.known("The operator's server", seen)
            if seen
            else Entry.blank("The operator's server", "what it could read is in the plan"),
            Entry.known("Other members", f"the model before each round{noised}{members}"),
            Entry.known("The finished model", result),
            Entry.blank("Others who receive the model"),
            Entry.blank("Transfers to third countries", "which, and the safeguards; none?"),
        ),
    )


def measures(job: Job, more: Iterable[Entry]) -> Part:
    """What protects the data, technically as far as Umbel does it."""
    privacy = job.privacy
    encryption = (
        "none: the server reads each owner's own update"
        if not job.encrypted
        else "each update is masked on the owner's machine; only sums over several owners can be opened"
    )
    noise = (
        'none: privacy.unit = "none"'
        if not job.private
        else f'unit "{privacy.unit}", clipping norm {privacy.clipping_norm:g}'
    )
    return Part(
        "Technical and organisational measures",
        (
            Entry.known("Encryption of updates", encryption),
            Entry.known("Differential privacy", noise),
            *more,
            Entry.blank("Organisational measures", "who has access, training, contracts"),
        ),
    )


def guarantee(promise: Promise, more: Iterable[Entry] = ()) -> Part:
    """The guarantee: exactly, in plain words, and in figures."""
    entries = [
        Entry.known("Exactly", promise.sentence)
        if promise.sentence
        else Entry.blank("Exactly", "the plan's sentence, which is not stored here")
    ]
    if promise.seeded:
        entries.insert(
            0,
            Entry.known(
                "NOT PRIVATE",
                "The noise was seeded, for a test. The following guarantee does not hold.",
            ),
        )
    if promise.plainly:
        entries.append(
            Entry.known("In plain words", promise.plainly.removeprefix("In plain words: "))
        )
    at = f" at delta {delta_text(promise.delta)}" if promise.delta is not None else ""
    for name, value in (
        ("Epsilon that was planned", promise.planned),
        ("Epsilon that the job may cost", promise.most),
        ("Epsilon that it has cost", promise.spent),
    ):
        if value is not None:
            entries.append(Entry.known(name, f"{epsilon_text(value)}{at}"))
    return Part("Guarantee", (*entries, *more))


def retention(kept: Mapping[str, str]) -> Part:
    """What stays, where, and how long: by what Umbel does; the rest is the owner's decision."""
    return Part(
        "Retention",
        (
            *(Entry.known(name, text) for name, text in kept.items()),
            Entry.blank("The model is deleted", "when, and by whom"),
            Entry.blank("The records are deleted", "when, and by whom"),
        ),
    )


def signature() -> Part:
    return Part(
        "Signature",
        (Entry.blank("Place and date"), Entry.blank("Name and function"), Entry.blank("Signature")),
    )


def seen_by_the_server(plan: Mapping[str, Any]) -> str:
    return encryption_line(dict(plan))
