"""Numbers as people read them, the same in tables, pictures and the page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_SHARES = {"accuracy", "precision", "recall", "f1", "exact_match"}
_DASH = "–"
_TESTED = ("accuracy", "perplexity", "exact_match", "loss")
_TESTED_SPANS = ("f1", "exact_match", "loss")
_JUDGED = {"accuracy", "f1"}
"""Shares that models are judged by; metrics of classes hold the second beside the first."""

NOT_DEFINED = "not defined"
WHY_NOT_DEFINED = (
    "Not defined: noise outweighs the private counts of which this is the ratio. For sharper figures "
    "use more held-out records, fewer tests (evaluation.every), a larger evaluation.epsilon, or public "
    "records (evaluation.public_path)."
)

OUTWEIGHED = 0.3
"""Standard deviation of a share beyond which a test of it means nothing: two of them cover its range."""


def metric_text(key: str, value: float | None) -> str:
    """A metric by its name: shares in percent, perplexity in three or four digits."""
    if value is None:
        return _DASH
    if not math.isfinite(value):
        return "∞"
    if key in _SHARES:
        return f"{value:.1%}"
    if key in ("examples", "tokens", "support"):
        return f"{value:,.0f}"
    if key == "perplexity":
        return (
            f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
        )
    return f"{value:.3f}"


def is_share(key: str) -> bool:
    """Whether a metric is a share, from 0 to 1."""
    return key in _SHARES


def tested_keys(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """The main figures among these metrics, by name."""
    return _TESTED_SPANS if "f1" in metrics and "accuracy" not in metrics else _TESTED


def undefined(metrics: Mapping[str, Any] | None, key: str) -> bool:
    """Whether a test was made and told no such figure: noise can leave counts that nothing divides."""
    return bool(metrics) and key in (metrics or {}) and (metrics or {})[key] is None


def telling(metrics: Mapping[str, Any] | None, blur: float | None) -> dict[str, Any]:
    """The figures of a test by the owners' counts, without those that say nothing: they are None.

    blur: the standard deviation that noise gives the main figure; None: there is no noise.
    """
    found = dict(metrics or {})
    if blur is None or blur <= OUTWEIGHED or not _JUDGED & found.keys():
        return found
    return {name: value if name == "examples" else None for name, value in found.items()}


def tested_texts(metrics: Mapping[str, Any], form: str, blur: Mapping[str, float]) -> list[str]:
    """The main figures of a test in words, in the format `form`; if none is defined, that and why.

    blur: the standard deviation that noise gives a figure, by its name.
    """
    keys = tested_keys(metrics)
    metrics = telling(metrics, blur.get(keys[0]))
    noise = {key: f" ± {deviation:.2g}" for key, deviation in blur.items()}
    found = [
        f"{key} {metrics[key]:{form}}{noise.get(key, '')}"
        for key in keys
        if metrics.get(key) is not None
    ]
    absent = [key for key in keys if undefined(metrics, key)]
    if not found and absent:
        return [f"{absent[0]} {NOT_DEFINED} (noise outweighs the counts)"]
    return found


def epsilon_text(value: float | None) -> str:
    """Epsilon with two digits, rounded up: a bound must not look better than it is."""
    if value is None:
        return _DASH
    if not math.isfinite(value):
        return "∞"
    # The tolerance keeps 0.29 (28.999... or 29.000...1 hundredths in binary) at 0.29.
    return f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"


def delta_text(value: float | None) -> str:
    """Delta as people write it: 1e-5, not 1e-05."""
    return _DASH if value is None else f"{value:g}".replace("e-0", "e-")


def rounded_up(value: float, digits: int = 2) -> float:
    """The least number of so many significant digits that is not below `value`, but for 1e-9 of a digit."""
    if not math.isfinite(value) or value <= 0:
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.{digits}g}")


def size_text(count: float | None) -> str:
    """Bytes in decimal units."""
    if count is None:
        return _DASH
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def duration_text(seconds: float | None) -> str:
    if seconds is None:
        return _DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def durations_text(total: float, parts: Mapping[str, float]) -> dict[str, str]:
    """How long each part took, so that what is shown adds up to what ``duration_text`` shows of `total`.

    What the parts leave of it is "other". Each is rounded down, and those that lose most get the rest.
    """
    unit = 0.1 if total < 10 else 1.0 if round(total) < 3600 else 60.0
    whole = round(float(f"{total:.1f}") * 10) if unit < 1 else round(total) // int(unit)
    rest = total - sum(parts.values())
    parts = {**parts, **({"other": rest} if rest >= unit / 2 else {})}
    units = {name: math.floor(value / unit) for name, value in parts.items()}
    lost = sorted(parts, key=lambda name: units[name] - parts[name] / unit)
    for name in lost[: max(0, whole - sum(units.values()))]:
        units[name] += 1
    return {name: _units_text(many, unit) for name, many in units.items()}


def _units_text(many: int, unit: float) -> str:
    if unit < 1:
        return f"{many / 10:.1f} s"
    return f"{many} s" if many * unit < 10 else duration_text(many * unit)


def count_text(count: float | None) -> str:
    return _DASH if count is None else f"{count:,.0f}"


def spread_text(values: Iterable[float | None], text: Callable[[float], str]) -> str:
    """Median and range, as in "81.2% (74.0–88.1%)"."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return _DASH
    low, middle, high = text(known[0]), text(statistics.median(known)), text(known[-1])
    return middle if low == high else f"{middle} ({low.rstrip('%')}–{high})"


def quoted(value: object, width: int = 60) -> str:
    """A value as Python writes it, cut within its quotes so that they are closed: ``'The garden…'``."""
    if isinstance(value, str):
        return repr(short(value, width))
    return short(repr(value), width)


def short(text: str, width: int = 20) -> str:
    """`text`, cut to `width` characters with an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def counted(count: int, one: str, several: str = "") -> str:
    """A number and what it counts, in the singular or plural: ``1 row``, ``2 rows``, ``1,200 classes``.

    several: the plural, if it is not `one` with an "s", or an "es" where English puts one.
    """
    return f"{count:,} {one if count == 1 else several or plural(one)}"


def plural(one: str) -> str:
    """The plural of an English noun that is regular, also of the first of several words: ``rows of it``."""
    noun, space, rest = one.partition(" of ")
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es{space}{rest}"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies{space}{rest}"
    return f"{noun}s{space}{rest}"


def verb(count: int, one: str, several: str) -> str:
    """A verb in the form that its subject's count asks for: ``is`` of 1, ``are`` of others."""
    return one if count == 1 else several
