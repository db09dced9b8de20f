"""report.html: one self-contained page about a run, for those who must answer for it.

Here are its figures as texts; ``templates/run.html`` says where they stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..quantities import (
    count_text,
    delta_text,
    duration_text,
    durations_text,
    epsilon_text,
    is_share,
    metric_text,
    size_text,
    undefined,
)
from ..run.events import Round, number
from ..run.outcome import figure_text
from ..run.record import RunRecord
from ..survey.holdings import holdings_lines
from .html import Tile, pictures_of, write_html
from .standings import (
    EXACT,
    NOISED,
    alone_median,
    main_text,
    noised_text,
    own_models_line,
    standings,
    undefined_line,
    untested_line,
)
from .tables import encryption_line, is_encrypted

_PUBLIC = {
    "accuracy": "Accuracy",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "perplexity": "Perplexity",
    "exact_match": "Exact match",
    "loss": "Loss",
}
_Rows = list[tuple[str, ...]]


def write_page(folder: Path, pictures: Sequence[Path] | None = None) -> Path:
    """Write ``report.html`` into the run folder and return its path.

    `pictures` are those that ``plots.draw`` returned; without them they are drawn now.
    """
    if pictures is None:
        from .plots import draw

        pictures = draw(folder)
    record = RunRecord.read(folder)
    return write_html(
        record.folder / "report.html",
        "run.html",
        record=record,
        images=pictures_of(pictures),
        shown=_tiles(record),
        **_guarantee(record),
        **_results(record),
        **_classes(record),
        **_traffic(record),
        public=_public(record),
        public_records=count_text(number(record.public_final, "examples")),
        spent=_spent(record),
        held=_held(record),
        data=holdings_lines(record.partition.data)
        if record.partition and record.partition.data
        else [],
        untested=untested_line(record),
        losses=_tells_losses(record),
        rounds=_rounds(record),
        clock=_has_clock(record),
        buffered=_is_buffered(record),
        failures=[
            (f"{f.round}", f"{f.attempt}", f.client or "-", f.reason) for f in record.failures
        ],
        warned=record.warned,
        warnings=[str(warning) for warning in record.plan.get("warnings") or []],
        origin=_origin(record),
    )


def _tiles(record: RunRecord) -> list[Tile]:
    metric = record.metric
    alone, pooled = alone_median(record), number(record.pooled, metric.key)
    tiles = []
    if record.final:
        before = main_text(record, record.before)
        more = f"{before} before training" if record.before else ""
        if record.exact:
            seen = f"exact; a server sees {noised_text(record)}"
            more = f"{seen} · {more}" if more else seen
        text = main_text(record, record.final)
        tiles.append(Tile(f"{metric.label}, federated", text, more))
    if alone is not None:
        text = metric_text(metric.key, alone)
        tiles.append(Tile("Each site alone", text, f"median of {len(record.local_only):,}"))
    if pooled is not None:
        tiles.append(Tile("All data in one place", metric_text(metric.key, pooled), "no privacy"))
    if record.private:
        spent = epsilon_text(max(record.epsilon.values(), default=0.0))
        limit = record.epsilon_target
        more = f"limit {epsilon_text(limit)} · " if limit is not None else ""
        tiles.append(Tile("Largest ε", spent, f"{more}δ = {delta_text(record.delta)}"))
    return tiles


def _guarantee(record: RunRecord) -> dict[str, Any]:
    planned = record.epsilon_target or 0.0
    bound = max(record.epsilon.values(), default=planned) if record.finished else planned
    seen = encryption_line(record.plan)
    return {
        # The guarantee but for what the server sees, which has a box of its own.
        "promise": record.guarantee.removesuffix(seen).strip(),
        "plainly": record.plan.get("plainly") or "",
        "seen": seen,
        "encrypted": is_encrypted(record.plan),
        "factor": f"{math.ceil(math.exp(bound) * 10) / 10:,.1f}"
        if bound < 20
        else f"10^{bound / math.log(10):.0f}",
        "as_if": _as_if(record),
    }


def _as_if(record: RunRecord) -> str:
    """What the model is compared with."""
    if record.protects_clients:
        return "as if all data of one given client had been any other data."
    if record.protects_groups:
        return (
            "as if all records of one given group, such as one patient, had not been used. This covers "
            "a group at one owner; a patient with records at several owners is protected less."
        )
    return (
        "as if one given record had not been used. This covers one record; a person with several "
        "records is protected less."
    )


def _results(record: RunRecord) -> dict[str, Any]:
    notes = [EXACT if record.exact else NOISED if record.noised else "", undefined_line(record)]
    notes.append(own_models_line(record))
    return {
        "standings": standings(record),
        "bars": is_share(record.metric.key),
        "notes": [note for note in notes if note],
    }


def _public(record: RunRecord) -> _Rows:
    """What the server itself measured."""
    before, final = record.public_before, record.public_final
    return [
        (title, metric_text(key, number(before, key)), metric_text(key, number(final, key)))
        for key, title in _PUBLIC.items()
        if number(final, key) is not None
    ]


def _spent(record: RunRecord) -> _Rows:
    return [
        (
            str(client.get("name")),
            epsilon_text(record.epsilon.get(str(client.get("name")))),
            epsilon_text(number(client, "epsilon")),
            _decimal(number(client, "noise_multiplier"), 3),
            _decimal(number(client, "sampling_rate"), 4),
            count_text(number(client, "steps")),
        )
        for client in record.plan.get("clients", [])
    ]


def _decimal(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _held(record: RunRecord) -> _Rows:
    shares = record.partition.clients.items() if record.partition else ()
    return [(name, count_text(share.train), count_text(share.test)) for name, share in shares]


def _classes(record: RunRecord) -> dict[str, Any]:
    per_class = record.final.get("per_class")
    defined = not undefined(record.final, record.metric.key)
    keys = ("precision", "recall", "f1", "support")
    rows = [
        (str(label), *_figures_of_class(scores, keys))
        for label, scores in (per_class.items() if isinstance(per_class, dict) else ())
    ]
    others = [
        f"{title} {metric_text(key, value)}"
        for key, title in (("f1", "F1"), ("roc_auc", "ROC AUC"), ("kappa", "Cohen’s κ"))
        if (value := number(record.final, key)) is not None
    ]
    return {
        "show_classes": defined,
        "classes": rows if defined else [],
        "more_of_classes": f" {', '.join(others)}." if others else "",
    }


def _figures_of_class(scores: dict[str, Any], keys: Sequence[str]) -> Iterator[str]:
    """Figures of one class; of one without held-out records none is measured."""
    support = number(scores, "support")
    for key in keys:
        measured = key == "support" or support is None or support > 0
        yield metric_text(key, number(scores, key)) if measured else "not measured"


def _traffic(record: RunRecord) -> dict[str, Any]:
    trained = number(record.plan, "trainable_parameters")
    shown = durations_text(record.seconds or 0.0, record.stages) if record.stages else {}
    parts = [f"{part} {text}" for part, text in shown.items()]
    return {
        "traffic": [
            (
                title,
                size_text(record.traffic(f"{way}_per_client_round")),
                size_text(record.traffic(f"{way}_total")),
            )
            for way, title in (("up", "Up: updates"), ("down", "Down: models"))
        ],
        "trained_parameters": "" if trained is None else count_text(trained),
        "total_parameters": count_text(number(record.plan, "total_parameters")),
        "parts_of_time": f" ({', '.join(parts)})" if parts else "",
    }


def _tells_losses(record: RunRecord) -> bool:
    """Whether losses of training are known: under privacy no owner tells them."""
    return any(entry.loss is not None for entry in record.rounds)


def _rounds(record: RunRecord) -> _Rows:
    tested = {test.round: test.figures for test in record.evaluations}
    losses = _tells_losses(record)
    return [
        (
            f"{entry.round}" + (f" (attempt {entry.attempt})" if entry.attempt > 1 else ""),
            count_text(len(entry.clients)),
            count_text(len(entry.failed)),
            *([_decimal(entry.loss, 3)] if losses else []),
            figure_text(tested.get(entry.round), record.metric.key),
            epsilon_text(max(entry.epsilon.values(), default=None)),
            size_text(entry.bytes_up),
            size_text(entry.bytes_down),
            duration_text(entry.seconds),
            *([duration_text(entry.virtual)] if _has_clock(record) else []),
            *([_staleness(entry)] if _is_buffered(record) else []),
        )
        for entry in record.rounds
    ]


def _has_clock(record: RunRecord) -> bool:
    """Whether a simulation's clients had speeds."""
    return any(entry.virtual is not None for entry in record.rounds)


def _is_buffered(record: RunRecord) -> bool:
    """Whether rounds were asynchronous."""
    return any(entry.staleness for entry in record.rounds)


def _staleness(entry: Round) -> str:
    """How old the members' updates were in a sum, from the freshest to the stalest."""
    ages = sorted(int(age) for age in entry.staleness.values())
    return ", ".join(map(str, ages)) or "–"


def _attackers(result: dict[str, Any]) -> str:
    """How many clients of a simulation attacked, and how; empty if none did."""
    found = result.get("attackers")
    if not found:
        return ""
    return f"{len(found['clients'])} of {result['clients']} clients: {found['attack']}"


def _origin(record: RunRecord) -> list[tuple[str, Any]]:
    result = record.result or {}
    facts = [
        ("Umbel", result.get("umbel_version")),
        ("Strategy", result.get("strategy") or record.plan.get("strategy")),
        ("Attackers", _attackers(result)),
        ("Adapter", result.get("adapter") or record.plan.get("adapter")),
        ("SHA-256 of the adapter", result.get("adapter_sha256")),
    ]
    return [(title, value) for title, value in facts if value]
