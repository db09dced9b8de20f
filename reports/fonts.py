"""Which fonts a picture needs, so that names in any script are letters and no boxes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

_OWN = "DejaVu Sans"
_NONE = "last resort"
"""The names of fonts that draw a box for every character contain this."""
_log = logging.getLogger(__name__)


def fall_back(sheet: Figure) -> str:
    """Let all text of a picture fall back to installed fonts; the characters that none of them has."""
    texts = [text for text in sheet.findobj(Text) if isinstance(text, Text)]
    wanted = {c for text in texts for c in text.get_text() if not c.isspace()}
    families, missing = families_for(frozenset(wanted))
    for text in texts:
        # The last is for browsers of machines that have none of the others.
        text.set_fontfamily([*families, "sans-serif"])
    return missing


def say_missing(characters: str, where: str = "PNG pictures") -> None:
    """Tell the user why a picture, or a file that `where` names, has boxes."""
    if characters:
        _log.warning(
            "No installed font has %s: boxes stand in their place in %s. Install a font that "
            "has them, such as Noto Sans CJK for Chinese, Japanese and Korean. HTML pages are not "
            "affected.", characters, where,
        )  # fmt: skip


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What libraries say of fonts, which ``say_missing`` says better."""
    logs = [logging.getLogger(name) for name in ("matplotlib.font_manager", "fpdf", "fontTools")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@lru_cache(maxsize=64)
def families_for(wanted: frozenset[str]) -> tuple[tuple[str, ...], str]:
    """Our own font, then as few installed ones as have the rest of `wanted`; and what none has."""
    left = {ord(c) for c in wanted} - _covered(_OWN)
    families = [_OWN]
    for family in sorted({font.name for font in font_manager.fontManager.ttflist}) if left else ():
        if _NONE not in family.lower() and (found := left & _covered(family)):
            families.append(family)
            left -= found
    return tuple(families), "".join(map(chr, sorted(left)))


def faces_for(wanted: frozenset[str]) -> tuple[list[Path], str]:
    """Our own font upright and bold, then installed ones for the rest; and what none of them has."""
    families, missing = families_for(frozenset(c for c in wanted if not c.isspace()))
    own = [
        Path(font_manager.findfont(font_manager.FontProperties(family=_OWN, weight=weight)))
        for weight in ("regular", "bold")
    ]
    return [*own, *(Path(_upright(family).fname) for family in families[1:])], missing


def _upright(family: str) -> font_manager.FontEntry:
    """``IndexError`` if there is none."""
    fonts = [font for font in font_manager.fontManager.ttflist if font.name == family]
    upright = [f for f in fonts if f.style == "normal" and f.weight in (400, "normal", "regular")]
    return upright[0]


@lru_cache(maxsize=256)
def _covered(family: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(_upright(family).fname).get_charmap())
    except (IndexError, RuntimeError, OSError):
        return frozenset()
