"""What strategies.py found, as tables in Markdown and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PAGE = Path(__file__).resolve().parent.parent / "docs" / "strategies.md"
KINDS = {"head": "a head", "lora": "LoRA"}


def report(found: dict[str, list[Row]]) -> list[str]:
    """Tables of each part that was measured."""
    lines = []
    for part, rows in found.items():
        for title, table in tables(part, rows).items():
            lines += ["", f"**{title}**", "", *table]
    return lines


def tables(part: str, rows: list[Row]) -> dict[str, list[str]]:
    """By title, the lines of each."""
    if not rows:
        return {}
    if part != "board":
        return {part: plain(rows)}
    found = {}
    for adapter, name in KINDS.items():
        mine = [row for row in rows if row["adapter"] == adapter]
        if mine:
            found[f"board, {name}: accuracy"] = [*accuracies(mine), "", below(mine)]
            found[f"board, {name}: costs"] = costs(mine)
    return found


def plain(rows: Sequence[Row]) -> list[str]:
    names = list(rows[0])
    return markdown(names, ([cell(row[name]) for name in names] for row in rows))


def markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(names)} |",
        "|---" * len(names) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def case_of(row: Row) -> str:
    dealt = row["partition"].rpartition(":")[2]
    privacy = "none" if row["epsilon"] is None else f"epsilon {row['epsilon']:g}"
    return f"{row['set']}, {dealt}, {privacy}"


def by_strategy(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Rows by strategy, and then by case."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["strategy"], {})[case_of(row)] = row
    return found


def accuracies(rows: Sequence[Row]) -> list[str]:
    """A line per strategy, a column per case; the best of a column is bold."""
    cases = list(dict.fromkeys(map(case_of, rows)))
    best = {c: max(r["accuracy"] for r in rows if case_of(r) == c) for c in cases}

    def shown(found: Row | None, case: str) -> str:
        if found is None:
            return "-"
        text = f"{found['accuracy']:.3f}"
        return f"**{text}**" if found["accuracy"] == best[case] else text

    return markdown(
        ["strategy", *cases],
        (
            [f"`{name}`", *(shown(found.get(case), case) for case in cases)]
            for name, found in by_strategy(rows).items()
        ),
    )


def below(rows: Sequence[Row]) -> str:
    """Which strategies lose to FedAvg wherever both were measured."""
    found = by_strategy(rows)
    plain = found["fedavg"]
    worse = [
        f"`{name}`"
        for name, own in found.items()
        if name != "fedavg"
        and all(row["accuracy"] < plain[case]["accuracy"] for case, row in own.items())
    ]
    return f"Below `fedavg` in every case: {', '.join(worse) or 'none'}."


def costs(rows: Sequence[Row]) -> list[str]:
    """A line per strategy; worst client and rounds without privacy, bytes of its first case."""
    lines = []
    for name, found in by_strategy(rows).items():
        own = list(found.values())
        free = [row for row in own if row["epsilon"] is None]
        rounds = [row["rounds"] for row in free]
        noised = [row for row in own if row["epsilon"] is not None]
        lines.append(
            [
                f"`{name}`",
                cell(statistics.mean(row["worst"] for row in free) if free else None),
                ", ".join(map(cell, rounds)),
                cell(free[0]["bytes_up"] if free else None),
                cell(noised[0]["bytes_up"] if noised else None),
                cell(noised[0]["bytes_down"] if noised else None),
                f"{statistics.median(row['seconds'] for row in own):.2f}",
                cell(own[0]["keeps"]),
            ]
        )
    return markdown(
        [
            "strategy", "worst client", "rounds to 95 %", "bytes up, with a test", "bytes up, without",
            "bytes down, without", "seconds", "owner keeps, bytes",
        ],
        lines,
    )  # fmt: skip


def put(page: Path, found: dict[str, list[Row]]) -> None:
    """Replace the tables of these parts on a page."""
    for part, rows in found.items():
        for title, table in tables(part, rows).items():
            replace_table(page, title, table)


def replace_table(page: Path, title: str, table: Sequence[str]) -> None:
    """Replace what stands between ``<!-- title -->`` and ``<!-- end -->`` on a page, if that is there."""
    before, mark, rest = page.read_text("utf-8").partition(f"<!-- {title} -->\n")
    if mark:
        _, end, after = rest.partition("<!-- end -->")
        page.write_text(before + mark + "\n".join(["", *table, "", ""]) + end + after, "utf-8")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Points of accuracy above FedAvg, a line per strategy and a dot per case."""
    from umbel.reports import canvas

    kinds = [kind for kind in KINDS if any(row["adapter"] == kind for row in rows)]
    names = {k: list(by_strategy(r for r in rows if r["adapter"] == k)) for k in kinds}
    sheet = canvas.figure(
        "What each strategy is worth beside FedAvg",
        "points of accuracy above fedavg with the same adapter; a dot is a set and a way to deal it",
        height=1.6 + 0.3 * max(map(len, names.values())),
    )
    privacies = {None: "no privacy", 4.0: "epsilon 4"}
    for kind, axes in zip(kinds, sheet.subplots(1, len(kinds), squeeze=False)[0], strict=True):
        canvas.dress(axes)
        found = by_strategy(row for row in rows if row["adapter"] == kind)
        others = [name for name in names[kind] if name != "fedavg"]
        for colour, beside, (epsilon, said) in zip(
            canvas.PALETTE, (-0.15, 0.15), privacies.items(), strict=False
        ):
            dots = [
                (100 * (row["accuracy"] - found["fedavg"][case]["accuracy"]), place + beside)
                for place, name in enumerate(others)
                for case, row in found[name].items()
                if row["epsilon"] == epsilon and case in found["fedavg"]
            ]
            if dots:
                axes.scatter(*zip(*dots, strict=True), color=colour, s=16, label=said, alpha=0.8)
        axes.axvline(0, color=canvas.GREY, linewidth=0.8)
        axes.set_yticks(range(len(others)), others)
        axes.invert_yaxis()
        axes.set_xlabel(f"points, {KINDS[kind]}")
        axes.legend(frameon=False, loc="upper left", fontsize=8)
    canvas.save(sheet, path)
