"""audit.html: what the red team found, on one self-contained page, with pictures and texts."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..errors import RunFolderError
from ..quantities import delta_text, epsilon_text
from . import canvas
from .canvas import ACCENT, GREY, INK, WARM
from .fragments import image, table, tile
from .stylesheet import CSS

_SHOWN = 6
"""Attacked texts that the page quotes for each view."""


def write_audit_page(folder: Path, found: dict[str, Any]) -> Path:
    """Write ``audit.html`` from what is in ``audit.json``, with pictures in ``plots``; its path."""
    sheets = {
        "audit-epsilon": _epsilon_picture(found),
        "audit-losses": _losses_picture(found),
        "audit-inversion": _inversion_picture(found),
    }
    images = {
        name: image(canvas.save(sheet, folder / "plots" / f"{name}.png"))
        for name, sheet in sheets.items()
        if sheet
    }
    path = folder / "audit.html"
    try:
        path.write_text(_page(found, images), encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error}") from None
    return path


def _page(found: dict[str, Any], images: dict[str, str]) -> str:
    body = [
        _head(found),
        _verdict(found),
        _canaries(found, images),
        _membership(found, images),
        _inversion(found, images),
        _limits(found),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Audit of {escape(found['name'])} · Umbel</title>\n<style>{CSS}</style>\n</head>\n"
        "<body>\n" + "\n".join(part for part in body if part) + "\n</body>\n</html>\n"
    )


def _head(found: dict[str, Any]) -> str:
    canaries, membership, inversion = (
        found["canaries"],
        found["membership"],
        found["inversion"],
    )
    tiles = []
    if "skipped" not in canaries:
        low = f"{canaries['lower_bound']:.2f}"
        claim = epsilon_text(canaries["claimed_epsilon"])
        tiles.append(tile("ε is at least", low, f"95 % sure · claimed: at most {claim}"))
    if "skipped" not in membership:
        final = membership["final"]
        spread = f"{final['low']:.3f} to {final['high']:.3f} · guessing 0.5"
        tiles.append(tile("Membership, AUC", f"{final['auc']:.3f}", spread))
    if "skipped" not in inversion:
        bare, seen = inversion["views"][0], _seen(inversion)
        what = "Records" if inversion["attack"] == "features" else "Tokens"
        tiles.append(tile(f"{what} read from a bare update", f"{bare['share']:.0%}"))
        chance = f"guessing {seen['chance']:.0%}"
        tiles.append(tile("From what the server saw", f"{seen['share']:.0%}", chance))
    kind = "simulation" if found["simulated"] else "deployment: the mechanism only"
    quotes = " · this page quotes records" if "skipped" not in inversion else ""
    return (
        f"<header><h1>Audit of {escape(found['name'])}</h1>"
        f'<p class="soft">{kind}{quotes}</p></header><div class="tiles">{"".join(tiles)}</div>'
    )


def _verdict(found: dict[str, Any]) -> str:
    bad = " bad" if found["broken"] else ""
    lines = "".join(f"<p>{escape(line)}</p>" for line in found["verdict"])
    return (
        f'<section class="box{bad}"><h2>Verdict</h2>{lines}'
        f'<p class="note">{escape(found["limits"][0])}</p></section>'
    )


def _canaries(found: dict[str, Any], images: dict[str, str]) -> str:
    rows = []
    for key, title in (
        ("canaries", "Gradient canaries, seen in every update"),
        ("mislabelled", "Wrong labels, seen in the last model only"),
    ):
        figures = found[key]
        if "skipped" in figures:
            rows.append((title, escape(f"not done: {figures['skipped']}"), "", "", ""))
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
    headings = ("Canaries", "Right guesses", "Of canaries", "ε at least", "ε claimed")
    figures = found["canaries"]
    note = ""
    if "skipped" not in figures:
        measured = figures["measured"]
        note = (
            f"Each canary was in with probability ½. The bound (Steinke, Nasr, Jagielski 2023, "
            f"Theorem 5.2) holds with {figures['confidence']:.0%} confidence at δ = "
            f"{delta_text(figures['delta'])}. Replayed: {figures['rounds']:,} rounds of "
            f"{figures['local_steps']:,} steps of client {figures['client']}, σ = "
            f"{figures['noise_multiplier']:g}, q = {figures['sampling_rate']:.4g}, C = "
            f"{figures['clipping_norm']:g}. Measured: σ = {measured['noise_multiplier']:.4g} "
            f"({measured['noise_low']:.4g} to {measured['noise_high']:.4g}), q = "
            f"{measured['sampling_rate']:.4g} ({measured['rate_low']:.4g} to "
            f"{measured['rate_high']:.4g}), intervals of 99.9 %."
        )
    return (
        f"<h2>Canaries: what leaks beside what is claimed</h2>{images.get('audit-epsilon', '')}"
        f'{table(headings, rows, words=2)}<p class="note">{escape(note)}</p>'
    )


def _membership(found: dict[str, Any], images: dict[str, str]) -> str:
    figures = found["membership"]
    title = "<h2>Membership: who was trained on?</h2>"
    if "skipped" in figures:
        return f'{title}<p class="soft">Not attacked: {escape(figures["skipped"])}.</p>'
    groups = {
        "All, final model": figures["final"],
        "All, before training": figures["before"],
    } | figures["clients"]
    rows = [
        (
            escape(name),
            f"{group['auc']:.3f}",
            f"{group['low']:.3f} to {group['high']:.3f}",
            f"{group['tpr_at_1_percent']:.1%}",
            f"{group['members']:,}",
            f"{group['others']:,}",
        )
        for name, group in groups.items()
    ]
    headings = ("Records of", "AUC", "95 % interval", "TPR at 1 % FPR", "Members", "Others")
    return (
        f"{title}{images.get('audit-losses', '')}{table(headings, rows)}"
        '<p class="note">By the loss of a record alone (Yeom et al. 2018); interval: DeLong et al. '
        "1988. 0.5 is guessing. What differs before training is the data’s doing.</p>"
    )


def _inversion(found: dict[str, Any], images: dict[str, str]) -> str:
    figures = found["inversion"]
    title = "<h2>Inversion: what can be read from updates?</h2>"
    if "skipped" in figures:
        return f'{title}<p class="soft">Not attacked: {escape(figures["skipped"])}.</p>'
    features = figures["attack"] == "features"
    how = (
        f"The attacker knows {figures['pool']:,} texts and names the one whose features fit the "
        "gradient of the head best (Geiping et al. 2020)."
        if features
        else "The attacker names the tokens whose embeddings moved most, as many as there are (Melis "
        "et al. 2019); guessing takes the most frequent tokens of other records."
    )
    how += " Each step is over one record, the attacker's best case: a real one mixes a batch."
    parts = [title, images.get("audit-inversion", ""), f'<p class="note">{escape(how)}</p>']
    for view in figures["views"]:
        mark = " — what the server of this run saw" if view["seen_by_server"] else ""
        rows = [
            (escape(trial["truth"]), escape(trial["recovered"]), f"{trial['share']:.0%}")
            for trial in view["trials"][:_SHOWN]
        ]
        score = "Found" if features else "Tokens right"
        headings = ("One of the true texts" if view["summed"] else "True text", "Read", score)
        parts.append(
            f"<h2>{escape(view_name(view) + mark)}</h2>"
            f"<p>{view['share']:.0%} in {len(view['trials']):,} attacks (guessing: "
            f"{view['chance']:.1%}).</p>"
            f"{table(headings, rows, words=2)}"
        )
    return "".join(parts)


def view_name(view: dict[str, Any]) -> str:
    """What an attacker looks at, in words."""
    what = f"Sum over {view['clients']:,} clients" if view["summed"] else "One client's update"
    return f"{what}, {'with noise' if view['noised'] else 'bare'}"


def _limits(found: dict[str, Any]) -> str:
    items = "".join(f"<li>{escape(limit)}</li>" for limit in found["limits"])
    return (
        f"<h2>What this audit cannot say</h2><ul>{items}</ul>"
        '<footer class="note">Written by Umbel from audit.json.</footer>'
    )


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
        f"AUC {final['auc']:.3f}: the more the two shapes coincide, the less can be told",
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
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
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
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    canvas.dress(axes, grid="x")
    return sheet
