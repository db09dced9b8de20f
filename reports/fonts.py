"""Which fonts a picture needs, so that names in any script are letters and no boxes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

_OWN = "DejaVu Sans"
_NONE = "last resort"
"""Of fonts that draw a box for everything, this is in the name."""
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


def say_missing(characters: str) -> None:
    """Tell the user why a picture has boxes."""
    if characters:
        _log.warning(
            "No installed font has %s: PNG pictures show boxes in their place. Install a font that "
            "has them, such as Noto Sans CJK for Chinese, Japanese and Korean. The pictures in "
            "report.html are not affected.", characters,
        )  # fmt: skip


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What matplotlib says of fonts, which ``say_missing`` says better."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            yield
    finally:
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


@lru_cache(maxsize=256)
def _covered(family: str) -> frozenset[int]:
    fonts = [font for font in font_manager.fontManager.ttflist if font.name == family]
    upright = [f for f in fonts if f.style == "normal" and f.weight in (400, "normal", "regular")]
    try:
        return frozenset(FT2Font(upright[0].fname).get_charmap())
    except (IndexError, RuntimeError, OSError):
        return frozenset()
