"""Who did how well: each site alone, federated, pooled. The rows of the table and of the page."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Literal

from ..quantities import (
    WHY_NOT_DEFINED,
    epsilon_text,
    is_share,
    metric_text,
    spread_text,
    undefined,
)
from ..run.events import Json, number
from ..run.outcome import figure_text
from ..run.record import RunRecord

INDIVIDUAL = 12
"""Up to this many clients are listed one by one; above, their median and range."""


@dataclass(frozen=True)
class Standing:
    """One model, or one client's view of it, in words ready to print.

    `overall` is the main metric on everybody's held-out records, behind `overall_text`.
    """

    label: str
    kind: Literal["before", "alone", "federated", "seen", "site", "pooled"]
    overall: float | None
    overall_text: str
    own_text: str
    epsilon_text: str


def standings(record: RunRecord) -> list[Standing]:
    """From the untrained model to the yardstick, with what each cost in epsilon."""
    key = record.metric.key

    def text(value: float | None) -> str:
        return metric_text(key, value)

    rows = []
    before = number(record.before, key)
    if record.before:
        own = spread_text((number(m, key) for m in record.client_before.values()), text)
        shown = main_text(record, record.before)
        rows.append(Standing("before training", "before", before, shown, own, "–"))
    rows += _alone(record)
    final = number(record.final, key)
    if record.final or record.client_final:
        own = spread_text((number(m, key) for m in record.client_final.values()), text)
        spent = _largest_epsilon(record)
        shown = main_text(record, record.final)
        rows.append(Standing("federated", "federated", final, shown, own, spent))
        if record.exact and record.seen:
            rows.append(
                Standing("  as a server sees it", "seen", None, noised_text(record), "–", "")
            )
    rows += _own_models(record)
    if not record.local_only and len(record.client_final) <= INDIVIDUAL:
        rows += [
            Standing(
                f"  at {name}",
                "site",
                None,
                "",
                text(number(metrics, key)),
                epsilon_text(record.epsilon.get(name)) if record.private else "–",
            )
            for name, metrics in record.client_final.items()
        ]
    pooled = number(record.pooled, key)
    if pooled is not None:
        rows.append(
            Standing("pooled (yardstick)", "pooled", pooled, text(pooled), "–", "no privacy")
        )
    return rows


EXACT = (
    "Exact figures, read on this machine from the owners' own logs. Between machines they stay at the "
    "owners, and the server sees noised ones."
)


def undefined_line(record: RunRecord) -> str:
    """Why a main figure that is shown is not defined; empty if all are."""
    shown = [record.before, record.final, *([record.seen] if record.exact else [])]
    drowned = record.private and any(undefined(found, record.metric.key) for found in shown)
    return WHY_NOT_DEFINED if drowned else ""


def untested_line(record: RunRecord) -> str:
    """Why there is no figure of a run; empty if there is one."""
    if not record.finished and not record.before and not record.evaluations:
        return "Nothing has been tested yet: the run has not come to the end of its first test."
    if record.final or not record.finished:
        return ""
    held = record.partition.data.get("held_out") if record.partition else None
    if held == 0:
        return (
            "Nothing was measured, because no record is held out: set data.test_path, or a "
            "data.test_fraction above 0 (--set data.test_fraction=0.2)."
        )
    return "Nothing was measured: no held-out record was tested."


NOISED = (
    "Figures from the owners' noised counts: ± is the standard deviation of the noise, by the "
    "plan. Figures without noise stay with the owners."
)


def main_text(record: RunRecord, figures: Json) -> str:
    """The main figure, with its noise as one standard deviation if it has some."""
    return (
        _with_noise(record, figures) if record.noised else figure_text(figures, record.metric.key)
    )


def noised_text(record: RunRecord) -> str:
    """The main figure as a server sees it, with its noise as one standard deviation."""
    return _with_noise(record, record.seen)


def _with_noise(record: RunRecord, figures: Json) -> str:
    key = record.metric.key
    text = figure_text(figures, key)
    if not is_share(key) or record.blur is None or undefined(figures, key):
        return text
    return f"{text} ± {metric_text(key, record.blur)}"


OWN_LABELS = {"own": "owners' own models", "shared": "the shared model alone"}


def _own_models(record: RunRecord) -> list[Standing]:
    """Personal and shared figures side by side: together, and of each owner if there are few."""
    found, key = record.own_models, record.metric.key
    if not found:
        return []
    clients = found["clients"]

    def text(metrics: Json, which: str) -> str:
        return figure_text(metrics.get(which), key)

    rows = []
    for which, label in OWN_LABELS.items():
        each = spread_text(
            (number(m.get(which), key) for m in clients.values()), lambda v: metric_text(key, v)
        )
        overall = number(found[which], key)
        rows.append(Standing(label, "site", overall, text(found, which), each, ""))
    if len(clients) <= INDIVIDUAL:
        rows += [
            Standing(
                f"  {name}: own, shared",
                "site",
                None,
                "",
                f"{text(metrics, 'own')}, {text(metrics, 'shared')}",
                "",
            )
            for name, metrics in clients.items()
        ]
    return rows


def own_models_line(record: RunRecord) -> str:
    """What the run's result is if owners have models of their own; empty if not."""
    return str((record.result or {}).get("about") or "")


def _alone(record: RunRecord) -> list[Standing]:
    key = record.metric.key
    alone = record.local_only

    def text(value: float | None) -> str:
        return metric_text(key, value)

    if len(alone) <= INDIVIDUAL:
        return [
            Standing(
                f"{name} alone",
                "alone",
                number(metrics, key),
                text(number(metrics, key)),
                text(number(metrics.get("own"), key)),
                _privacy_text(metrics.get("privacy"), record),
            )
            for name, metrics in alone.items()
        ]
    everywhere = [value for m in alone.values() if (value := number(m, key)) is not None]
    return [
        Standing(
            f"each of {len(alone):,} sites alone",
            "alone",
            statistics.median(everywhere) if everywhere else None,
            spread_text(everywhere, text),
            spread_text((number(m.get("own"), key) for m in alone.values()), text),
            spread_text((_epsilon(m.get("privacy")) for m in alone.values()), epsilon_text),
        )
    ]


def alone_median(record: RunRecord) -> float | None:
    """Median over sites of what a model trained alone reaches on everybody's records."""
    values = [number(metrics, record.metric.key) for metrics in record.local_only.values()]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def own_metrics(values: Json | None) -> Json:
    """A lone model's metrics on its own client's held-out records."""
    own = (values or {}).get("own")
    return own if isinstance(own, dict) else {}


def _largest_epsilon(record: RunRecord) -> str:
    if not record.private:
        return "no privacy"
    return epsilon_text(max(record.epsilon.values(), default=None))


def _epsilon(privacy: Any) -> float | None:
    if isinstance(privacy, dict):
        return number(privacy, "epsilon")
    return number({"epsilon": privacy}, "epsilon")


def _privacy_text(privacy: Any, record: RunRecord) -> str:
    if not record.private or record.protects_clients:  # alone, there is no sum to hide in
        return "no privacy"
    return epsilon_text(_epsilon(privacy))
