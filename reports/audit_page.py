"""audit.html: what the red team found, on one self-contained page, with pictures and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..quantities import epsilon_text
from . import canvas
from .canvas import ACCENT, GREY, INK, WARM
from .html import Tile, pictures_of, write_html

_SHOWN = 6
"""Number of attacked texts that the page quotes for each view."""


def write_audit_page(folder: Path, found: dict[str, Any]) -> Path:
    """Write ``audit.html`` from what is in ``audit.json``, with pictures in ``plots``; its path."""
    sheets = {
        "audit-epsilon": _epsilon_picture(found),
        "audit-losses": _losses_picture(found),
        "audit-inversion": _inversion_picture(found),
    }
    pictures = [
        canvas.save(sheet, folder / "plots" / f"{name}.png")
        for name, sheet in sheets.items()
        if sheet
    ]
    return write_html(
        folder / "audit.html",
        "audit.html",
        secret=True,  # it quotes records
        found=found,
        images=pictures_of(pictures),
        shown=_tiles(found),
        canaries=_canaries(found),
        membership=_membership(found["membership"]),
        views=_views(found["inversion"]),
    )


def _tiles(found: dict[str, Any]) -> list[Tile]:
    canaries, membership, inversion = (
        found["canaries"],
        found["membership"],
        found["inversion"],
    )
    tiles = []
    if "skipped" not in canaries:
        low = f"{canaries['lower_bound']:.2f}"
        claim = epsilon_text(canaries["claimed_epsilon"])
        tiles.append(Tile("ε is at least", low, f"95 % sure · claimed: at most {claim}"))
    if "skipped" not in membership:
        final = membership["final"]
        spread = f"{final['low']:.3f} to {final['high']:.3f} · guessing 0.5"
        tiles.append(Tile("Membership, AUC", f"{final['auc']:.3f}", spread))
    if "skipped" not in inversion:
        bare, seen = inversion["views"][0], _seen(inversion)
        what = "Records" if inversion["attack"] == "features" else "Tokens"
        tiles.append(Tile(f"{what} read from a bare update", f"{bare['share']:.0%}"))
        chance = f"guessing {seen['chance']:.0%}"
        tiles.append(Tile("From what the server saw", f"{seen['share']:.0%}", chance))
    return tiles


def _canaries(found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for key, title in (
        ("canaries", "Gradient canaries, seen in every update"),
        ("mislabelled", "Wrong labels, seen in the last model only"),
    ):
        figures = found[key]
        if "skipped" in figures:
            rows.append((title, f"not done: {figures['skipped']}", "", "", ""))
            continue
        rows.append(
            (
                title,
                f"{figures['correct']:,} of {figures['guesses']:,}",
                f"{figures['canaries']:,}",
                f"{figures['lower_bound']:.2f}",
                epsilon_text(figures["claimed_epsilon"]),
            )
        )
    return rows


def _membership(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    if "skipped" in figures:
        return []
    groups = {
        "All, final model": figures["final"],
        "All, before training": figures["before"],
    } | figures["clients"]
    return [
        (
            name,
            f"{group['auc']:.3f}",
            f"{group['low']:.3f} to {group['high']:.3f}",
            f"{group['tpr_at_1_percent']:.1%}",
            f"{group['members']:,}",
            f"{group['others']:,}",
        )
        for name, group in groups.items()
    ]


def _views(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """What an attacker may look at, each with the first texts that were attacked."""
    return [
        {
            "title": view_name(view)
            + (" — what the server of this run saw" if view["seen_by_server"] else ""),
            "share": view["share"],
            "chance": view["chance"],
            "attacks": len(view["trials"]),
            "heading": "One of the true texts" if view["summed"] else "True text",
            "rows": [
                (trial["truth"], trial["recovered"], f"{trial['share']:.0%}")
                for trial in view["trials"][:_SHOWN]
            ],
        }
        for view in figures.get("views", ())
    ]


def view_name(view: dict[str, Any]) -> str:
    """What an attacker looks at, in words."""
    what = f"Sum over {view['clients']:,} clients" if view["summed"] else "One client's update"
    return f"{what}, {'with noise' if view['noised'] else 'bare'}"


def _seen(inversion: dict[str, Any]) -> dict[str, Any]:
    return next(view for view in inversion["views"] if view["seen_by_server"])


def _epsilon_picture(found: dict[str, Any]) -> Figure | None:
    bars = [
        (title, found[key]["lower_bound"], colour)
        for key, title, colour in (
            ("canaries", "shown by gradient canaries", ACCENT),
            ("mislabelled", "shown by wrong labels", "#a9c6e6"),
        )
        if "skipped" not in found[key]
    ]
    if not bars:
        return None
    bars.append(("claimed by the run", found["canaries"]["claimed_epsilon"], INK))
    sheet = canvas.figure(
        "Epsilon: at least, and at most",
        "bars of attacks are lower bounds at 95 % confidence; longer than the claim would refute it",
        height=1.6 + 0.55 * len(bars),
    )
    axes = sheet.add_subplot()
    places = np.arange(len(bars))[::-1]
    axes.barh(places, [value for _, value, _ in bars], color=[c for _, _, c in bars], height=0.6)
    axes.set_yticks(places, [title for title, _, _ in bars])
    for place, (_, value, _) in zip(places, bars, strict=True):
        axes.annotate(
            f"{value:.2f}",
            (value, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    claim_bar = bars[-1][1]
    axes.axvline(claim_bar, color=WARM, linewidth=1.2, dashes=(5, 3))
    axes.margins(x=0.1)
    canvas.dress(axes, grid="x")
    return sheet


def _losses_picture(found: dict[str, Any]) -> Figure | None:
    figures = found["membership"]
    if "skipped" in figures:
        return None
    losses, final = figures["losses"], figures["final"]
    sheet = canvas.figure(
        "Losses of records that were trained on, and of others",
        f"AUC {final['auc']:.3f}: the more the two shapes coincide, the less the loss reveals",
    )
    axes = sheet.add_subplot()
    for side, label, colour in (
        ("members", f"{final['members']:,} training records", ACCENT),
        ("others", f"{final['others']:,} held-out records", WARM),
    ):
        axes.stairs(losses[side], losses["edges"], color=colour, linewidth=2, label=label)
        axes.stairs(losses[side], losses["edges"], color=colour, alpha=0.12, fill=True)
    axes.legend(frameon=False, labelcolor=INK, loc="upper left")
    axes.set_xscale("log")
    axes.set_xlabel("Loss under the final model")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    canvas.dress(axes)
    return sheet


def _inversion_picture(found: dict[str, Any]) -> Figure | None:
    figures = found["inversion"]
    if "skipped" in figures:
        return None
    views = figures["views"]
    what = "records" if figures["attack"] == "features" else "tokens"
    sheet = canvas.figure(
        f"Share of {what} that were read",
        "ticks: guessing; dark: what the server of this run saw",
        height=1.6 + 0.5 * len(views),
    )
    axes = sheet.add_subplot()
    places = np.arange(len(views))[::-1]
    axes.barh(
        places,
        [view["share"] for view in views],
        color=[ACCENT if view["seen_by_server"] else "#a9c6e6" for view in views],
        height=0.6,
    )
    for place, view in zip(places, views, strict=True):
        axes.plot([view["chance"]] * 2, [place - 0.36, place + 0.36], color=WARM, linewidth=2)
        axes.annotate(
            f"{view['share']:.0%}",
            (max(view["share"], view["chance"]), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=GREY,
        )
    axes.set_yticks(places, [view_name(view) for view in views])
    axes.set_xlim(0, 1.08)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    canvas.dress(axes, grid="x")
    return sheet
