"""How a run between machines stands, in words: from the store, also while no server runs.

Nothing here needs the libraries that models need: anyone who looks gets the answer at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..clock import local
from ..consortium.authority import Consortium
from ..foreign import typed
from ..quantities import tested_texts
from ..run.events import (
    Delivered,
    Ended,
    Evaluation,
    GroupLeftOut,
    Holdout,
    Json,
    Kept,
    Ready,
    Round,
    Said,
    Spare,
    SumRefused,
)
from ..run.outcome import decision_line
from ..run.store import RunRow, Store
from ..storage.processes import held

_TESTS: tuple[tuple[type[Evaluation | Holdout], str], ...] = (
    (Evaluation, ""),
    (Holdout, " on the public hold-out"),
)


def served(consortium: Consortium) -> bool:
    """Whether a server runs for a consortium, on the machine that has its folder."""
    return held(consortium.path / "lock")


def unserved_line(consortium: Consortium) -> str:
    """What to do if none does."""
    return (
        "No server runs for this consortium, so its runs do not continue. Start it: umbel server "
        f"--consortium {typed(consortium.path)}"
    )


def standing(row: RunRow, is_served: bool) -> str:
    """How a run stands, in a word or two; a run that nobody can lead waits, whatever it did before."""
    return row.standing if row.over or is_served else f"{row.standing}, no server"


def waits_for(store: Store, row: RunRow) -> str:
    """What a queued run waits for, if it is another one."""
    if row.status != "queued":
        return ""
    before = [run.name for run in store.runs() if not run.over and run.created < row.created]
    return (
        f"It waits until {before[0]} is over: the server leads one run at a time." if before else ""
    )


def taken_line(row: RunRow) -> str:
    """What became of an order that was taken in."""
    if row.status == "queued":
        return f"{row.name}\nWatch it with: umbel logs {row.name} --follow"
    further = f" Resume it: umbel resume {row.name}" if row.status in ("stopped", "failed") else ""
    return f"{row.name} is {row.standing}; it has a new order now.{further}"


def server_lines(consortium: Consortium, store: Store) -> Iterator[str]:
    """What is wrong with the server at the moment."""
    if not served(consortium):
        yield unserved_line(consortium)
        return
    for what, (when, text) in store.notes().items():
        yield f"Server, {what} (since {local(when)}): {text}"


def status_lines(consortium: Consortium, store: Store, row: RunRow) -> Iterator[str]:
    """Rounds; who answered, who did not and why; figures; what was decided; where the result is."""
    rounds = store.last(row.name, Round)
    asked: list[tuple[int, Said | Ready | Round]] = [
        *store.of_kinds(row.name, Said),
        *store.of_kinds(row.name, Ready),
        *rounds,
    ]
    few = sorted(asked, key=lambda told: told[0])
    yield f"{row.name}: {standing(row, served(consortium))}, round {row.round} of {row.rounds}"
    if row.reason:
        yield row.reason
    if waiting := waits_for(store, row):
        yield waiting
    yield from _absent_lines([event for _, event in few], row.over)
    for _, last in rounds:
        yield from _round_lines(last)
    for kind, where in _TESTS:
        tested = _last_tested(store, row.name, kind)
        if tested:
            blur = _blur(consortium.runs / row.name) if kind is Evaluation else {}
            figures = ", ".join(tested_texts(tested.metrics, ".4g", blur))
            yield f"The model after round {tested.round}{where}: {figures}"
    yield _absences(consortium.runs / row.name, row)
    for _, spare in store.last(row.name, Spare):
        yield f"Warning: {spare.text}"
    for _, group in store.of_kinds(row.name, GroupLeftOut):
        yield f"Warning: {group.text}"
    for _, refused in store.of_kinds(row.name, SumRefused):
        yield f"Warning: {refused.text}"
    yield from _delivered_lines([event for _, event in store.of_kinds(row.name, Delivered)], row)
    for _, ended in store.last(row.name, Ended):
        yield decision_line(ended)
    for _, kept in store.last(row.name, Kept):
        yield decision_line(kept)


def _last_tested(
    store: Store, name: str, kind: type[Evaluation | Holdout]
) -> Evaluation | Holdout | None:
    """The last test of a kind of which figures came."""
    found = [event for _, event in store.last(name, kind) if event.metrics]
    if not found:
        found = [event for _, event in store.of_kinds(name, kind) if event.metrics]
    return found[-1] if found else None


def _absent_lines(events: Sequence[Said | Ready | Round], over: bool) -> Iterator[str]:
    """Who does not take part now, and why: by what it said when it was asked last.

    over: the run has ended, so this is how it was then.
    """
    absent: dict[str, str] = {}
    for event in events:
        if isinstance(event, Said):
            absent[event.client] = "" if event.takes_part else event.said
        elif isinstance(event, Ready):
            absent |= event.failed | dict.fromkeys(event.clients, "")
        else:
            absent |= dict.fromkeys(event.clients, "")
    for client, reason in sorted(absent.items()):
        if reason:
            yield f"{'At the end without' if over else 'Without'} {client}: {reason}"


def _round_lines(last: Round) -> Iterator[str]:
    if last.aggregated:
        yield f"Round {last.round} took {last.seconds:.1f} s."
        yield f"Answered: {', '.join(sorted(last.clients)) or 'nobody'}"
    else:
        attempt = f", attempt {last.attempt}," if last.attempt > 1 else ""
        yield f"Round {last.round}{attempt} was given up after {last.seconds:.1f} s."
        heard = sorted({*last.clients, *last.heard})
        yield f"Answered, but too few: {', '.join(heard) or 'nobody'}"
    for client, reason in sorted(last.failed.items()):
        yield f"  {client}: {reason}"
    if last.lacks:
        yield f"  {last.lacks[0].upper()}{last.lacks[1:]}"
    for doubt in last.doubted.values():
        yield f"  {doubt}"


def _plan(run: Path) -> Json:
    """The run's plan; nothing as long as there is none."""
    try:
        found: Json = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _blur(run: Path) -> dict[str, float]:
    """Standard deviation that the noise of counts gives the main figure of a test, by its name."""
    tests = _plan(run).get("evaluation") or {}
    deviation = tests.get("deviation")
    return {} if deviation is None else {tests["deviation_of"]: deviation}


def _absences(run: Path, row: RunRow) -> str:
    """How many clients a round can do without, by the run's plan."""
    cohort = _plan(run).get("cohort")
    if not cohort:
        return (
            "It never had a plan." if row.over else "No plan yet: not all members have been asked."
        )
    least, size = cohort["minimum"], cohort["size"]
    return f"A round needs {least} of {size} clients: {size - least} may be missing."


def _delivered_lines(sent: Sequence[Delivered], row: RunRow) -> Iterator[str]:
    if sent:
        got = sorted({name for event in sent for name in event.clients})
        yield f"Result sent to: {', '.join(got) or 'nobody'}"
        for client, reason in sorted(sent[-1].failed.items()):
            yield f"  not to {client}: {reason}. Later: umbel deliver {row.name}"
