"""report.html: one self-contained page about a run, for those who must answer for it.

No script, no font and no picture comes from elsewhere, so the page can be mailed, archived and
opened without a network. All text from the run goes through ``html.escape``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..errors import RunFolderError
from ..quantities import (
    count_text,
    delta_text,
    duration_text,
    epsilon_text,
    metric_text,
    size_text,
    undefined,
)
from .events import Json, figure_text, number
from .fragments import bar, image, table, tile
from .run import RunRecord
from .standings import (
    EXACT,
    NOISED,
    alone_median,
    main_text,
    noised_text,
    standings,
    undefined_line,
)
from .stylesheet import CSS
from .tables import encryption_line, is_encrypted

_PUBLIC = {
    "accuracy": "Accuracy",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "perplexity": "Perplexity",
    "loss": "Loss",
}


def write_page(folder: Path, pictures: Sequence[Path] | None = None) -> Path:
    """Write ``report.html`` into the run folder and return its path.

    `pictures` are those that ``plots.draw`` returned; without them they are drawn now.
    """
    if pictures is None:
        from .plots import draw

        pictures = draw(folder)
    record = RunRecord.read(folder)
    images = {path.stem: image(path) for path in pictures}
    path = record.folder / "report.html"
    try:
        path.write_text(_page(record, images), encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error}") from None
    return path


def _page(record: RunRecord, images: dict[str, str]) -> str:
    body = [
        _head(record),
        _guarantee(record),
        _encryption(record),
        _results(record),
        _public(record),
        images.get("learning-curve", ""),
        images.get("perplexity-by-client", ""),
        _privacy(record),
        images.get("epsilon", ""),
        _data(record, images),
        _classes(record, images),
        _traffic(record),
        _rounds(record),
        _failures(record),
        _warnings(record),
        _origin(record),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(record.name)} · Umbel</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _head(record: RunRecord) -> str:
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
        tiles.append(tile(f"{metric.label}, federated", text, more))
    if alone is not None:
        text = metric_text(metric.key, alone)
        tiles.append(tile("Each site alone", text, f"median of {len(record.local_only):,}"))
    if pooled is not None:
        tiles.append(tile("All data in one place", metric_text(metric.key, pooled), "no privacy"))
    if record.private:
        spent = epsilon_text(max(record.epsilon.values(), default=0.0))
        limit = record.epsilon_target
        more = f"limit {epsilon_text(limit)} · " if limit is not None else ""
        tiles.append(tile("Largest ε", spent, f"{more}δ = {delta_text(record.delta)}"))
    state = "" if record.finished else f' · <span class="state">{escape(record.state)}</span>'
    return (
        f"<header><h1>{escape(record.name)}</h1>"
        f'<p class="soft">{escape(record.task)} · {len(record.client_names):,} clients · '
        f"{record.planned_rounds:,} rounds{state}</p></header>"
        f'<div class="tiles">{"".join(tiles)}</div>'
    )


def _guarantee(record: RunRecord) -> str:
    if not record.private:
        return (
            '<section class="box bad"><h2>No differential privacy</h2>'
            f'<p class="sentence">{_promise(record)}</p><p>This model was trained without '
            "noise: handle it as carefully as the records themselves.</p></section>"
        )
    warning = (
        "<p><strong>The noise of this run was drawn from the job’s seed, so that the run can be "
        "repeated. Whoever knows the seed can subtract it: no guarantee holds.</strong></p>"
        if record.reproducible
        else ""
    )
    title = "The guarantee" if record.finished else "The guarantee, once the run has ended"
    planned = record.epsilon_target or 0.0
    bound = max(record.epsilon.values(), default=planned) if record.finished else planned
    factor = (
        f"{math.ceil(math.exp(bound) * 10) / 10:,.1f}"
        if bound < 20
        else f"10^{bound / math.log(10):.0f}"
    )
    return (
        f'<section class="box{" bad" if warning else ""}"><h2>{title}</h2>{warning}'
        f'<p class="sentence">{_promise(record)}</p>'
        '<p class="note">In other words: whatever anybody may conclude from the released model '
        f"would be at most e<sup>ε</sup> ≈ {factor} times as likely, up to a probability of δ = "
        f"{escape(delta_text(record.delta))}, {_as_if(record)}</p></section>"
    )


def _as_if(record: RunRecord) -> str:
    """What the model is compared with."""
    if record.protects_clients:
        return "as if all data of one given client had been any other."
    if record.protects_groups:
        return (
            "as if all records of one given group, such as one patient, had not been used. It speaks "
            "of a group at one owner; a patient with records at several owners is protected less."
        )
    return (
        "as if one given record had not been used. It speaks of one record; a person with several "
        "records is protected less."
    )


def _encryption(record: RunRecord) -> str:
    closed = is_encrypted(record.plan)
    title = "What the server sees" if closed else "NOT ENCRYPTED"
    return (
        f'<section class="box{"" if closed else " bad"}"><h2>{title}</h2>'
        f'<p class="sentence">{escape(encryption_line(record.plan))}</p></section>'
    )


def _promise(record: RunRecord) -> str:
    """The guarantee but for what the server sees, which has a box of its own."""
    return escape(record.guarantee.removesuffix(encryption_line(record.plan)).strip())


def _results(record: RunRecord) -> str:
    rows = standings(record)
    if not rows:
        return '<h2>Results</h2><p class="soft">The model has not been tested yet.</p>'
    metric = record.metric
    bars = metric.key == "accuracy"
    cells = [
        (
            escape(row.label),
            (bar(row.overall) if bars else "") + escape(row.overall_text),
            escape(row.own_text),
            escape(row.epsilon_text),
        )
        for row in rows
    ]
    headings = ("Model", f"{metric.label} on all held-out records", "On own records", "ε")
    listed = table(headings, cells, words=2, classes=[row.kind for row in rows])
    direction = "" if metric.higher_is_better else " Lower is better."
    notes = [EXACT if record.exact else NOISED if record.noised else "", undefined_line(record)]
    return (
        f"<h2>Alone, federated, pooled</h2>{listed}"
        '<p class="note">Own records: the held-out records of one site; for the federated model, '
        f"median and range over sites.{direction}</p>"
        + "".join(f'<p class="note">{escape(note)}</p>' for note in notes if note)
    )


def _public(record: RunRecord) -> str:
    """What the server itself measured, and what was decided on figures."""
    parts = []
    before, final = record.public_before, record.public_final
    keys = [key for key in _PUBLIC if number(final, key) is not None]
    if keys:
        rows = [
            (
                escape(title),
                metric_text(key, number(before, key)),
                metric_text(key, number(final, key)),
            )
            for key, title in _PUBLIC.items()
            if key in keys
        ]
        count = count_text(number(final, "examples"))
        parts.append(
            f"<h2>Public hold-out</h2>{table(('Figure', 'Before training', 'Federated'), rows)}"
            f'<p class="note">Measured by the server itself on {count} public records; the figures '
            "above are of the owners’ records.</p>"
        )
    parts += [f"<p>{escape(sentence)}</p>" for sentence in record.decided]
    return "".join(parts)


def _privacy(record: RunRecord) -> str:
    if not record.private:
        return ""
    rows = [
        (
            escape(str(client.get("name"))),
            epsilon_text(record.epsilon.get(str(client.get("name")))),
            epsilon_text(number(client, "epsilon")),
            _decimal(number(client, "noise_multiplier"), 3),
            _decimal(number(client, "sampling_rate"), 4),
            count_text(number(client, "steps")),
        )
        for client in record.plan.get("clients", [])
    ]
    spent = "ε spent" if record.finished else "ε so far"
    headings = ("Client", spent, "ε planned", "Noise multiplier σ", "Sampling rate q", "Steps")
    return (
        f"<h2>Privacy of each client</h2>{table(headings, rows)}"
        f'<p class="note">At δ = {escape(delta_text(record.delta))}, for '
        f"{'all data' if record.protects_clients else 'one record'} of one client. Epsilon is "
        "rounded up.</p>"
    )


def _decimal(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _data(record: RunRecord, images: dict[str, str]) -> str:
    if record.partition is None:
        return ""
    rows = [
        (escape(name), count_text(share.train), count_text(share.test))
        for name, share in record.partition.clients.items()
    ]
    listed = table(("Client", "Training records", "Held-out records"), rows)
    return f"<h2>Who holds what</h2>{images.get('partition', '')}{listed}"


def _classes(record: RunRecord, images: dict[str, str]) -> str:
    per_class = record.final.get("per_class")
    picture = images.get("confusion", "")
    if undefined(record.final, record.metric.key):
        return ""
    if not isinstance(per_class, dict) or not per_class:
        return picture and f"<h2>Classes</h2>{picture}"
    keys = ("precision", "recall", "f1", "support")
    rows = [
        (escape(str(label)), *(metric_text(key, number(scores, key)) for key in keys))
        for label, scores in per_class.items()
    ]
    others = [
        f"{title} {metric_text(key, value)}"
        for key, title in (("f1", "F1"), ("roc_auc", "ROC AUC"), ("kappa", "Cohen’s κ"))
        if (value := number(record.final, key)) is not None
    ]
    listed = table(("Class", "Precision", "Recall", "F1", "Records"), rows)
    more = f" {', '.join(others)}." if others else ""
    return (
        f"<h2>Classes</h2>{listed}"
        f'<p class="note">Federated model on all held-out records'
        f"{' (exact figures)' if record.exact else ''}.{more}</p>"
        f"{picture}"
    )


def _traffic(record: RunRecord) -> str:
    rows = [
        (title, size_text(record.traffic(f"{way}_per_client_round")), size_text(total))
        for way, title in (("up", "Up: updates"), ("down", "Down: models"))
        for total in [record.traffic(f"{way}_total")]
    ]
    trained = number(record.plan, "trainable_parameters")
    parameters = number(record.plan, "total_parameters")
    note = ""
    if trained is not None:
        note = (
            f'<p class="note">{count_text(trained)} of {count_text(parameters)} parameters are '
            "trained and travel; records stay where they are.</p>"
        )
    headings = ("Direction", "Per client and round", "In all")
    return f"<h2>Traffic</h2>{table(headings, rows)}{note}{_seconds(record)}"


def _seconds(record: RunRecord) -> str:
    spent: Json = (record.result or {}).get("seconds") or {}
    parts = [
        f"{part} {duration_text(value)}"
        for part in ("prepare", "federated", "alone", "pooled")
        if (value := number(spent, part))
    ]
    more = f" ({', '.join(parts)})" if parts else ""
    return f'<p class="note">Time: {duration_text(record.seconds)}{more}.</p>'


def _rounds(record: RunRecord) -> str:
    if not record.rounds:
        return ""
    metric = record.metric
    tested = {test.round: test.metrics for test in record.evaluations}
    rows = [
        (
            f"{entry.number}" + (f" (attempt {entry.attempt})" if entry.attempt > 1 else ""),
            count_text(len(entry.clients)),
            count_text(len(entry.failed)),
            _decimal(entry.loss, 3),
            figure_text(tested.get(entry.number), metric.key),
            epsilon_text(max(entry.epsilon.values(), default=None)),
            size_text(entry.bytes_up),
            size_text(entry.bytes_down),
            duration_text(entry.seconds),
        )
        for entry in record.rounds
    ]
    headings = (
        *("Round", "Answered", "Failed", "Training loss", metric.label),
        *("Largest ε", "Up", "Down", "Time"),
    )
    return f"<h2>Rounds</h2>{table(headings, rows)}"


def _failures(record: RunRecord) -> str:
    if not record.failures:
        return '<h2>Failures</h2><p class="soft">None on record.</p>'
    rows = [
        (f"{f.round}", f"{f.attempt}", escape(f.client), escape(f.reason)) for f in record.failures
    ]
    return f"<h2>Failures</h2>{table(('Round', 'Attempt', 'Client', 'Reason'), rows, words=4)}"


def _warnings(record: RunRecord) -> str:
    warnings = record.plan.get("warnings") or []
    items = "".join(f"<li>{escape(str(warning))}</li>" for warning in warnings)
    return f"<h2>Warnings of the plan</h2><ul>{items}</ul>" if items else ""


def _origin(record: RunRecord) -> str:
    result = record.result or {}
    facts = [
        ("Umbel", result.get("umbel_version")),
        ("Strategy", result.get("strategy") or record.plan.get("strategy")),
        ("Adapter", result.get("adapter") or record.plan.get("adapter")),
        ("SHA-256 of the adapter", result.get("adapter_sha256")),
    ]
    rows = [
        (escape(title), f'<span class="hash">{escape(str(value))}</span>')
        for title, value in facts
        if value
    ]
    job = f"<h2>The job</h2><pre><code>{escape(record.job_text.strip())}</code></pre>"
    return (
        (job if record.job_text.strip() else "")
        + (f"<h2>Versions</h2>{table(('What', 'Which'), rows, words=2)}" if rows else "")
        + '<footer class="note">Written by Umbel from the files of the run folder.</footer>'
    )
