"""A survey of pictures in words: what there is, what to look at again, and what to set."""

from __future__ import annotations

import shlex

from rich.console import Group

from ..learning.reading.picture_limits import LARGEST_PICTURE
from ..learning.reading.picture_sizes import largest_file
from ..quantities import counted, verb
from ..tasks.spec import task_that_reads
from .advice import Advice
from .holdings import FEW
from .pictures import PictureSurvey, grouped_reasons
from .show import report

_NAMED = 8
_USUAL_SIDE = 224


def picture_facts(found: PictureSurvey) -> list[tuple[str, str]]:
    """What there is: a title and a line for each."""
    sides, pixels = found.sides, found.pixels
    test = "" if found.tested is None else f", {found.tested:,} of them for the test"
    shown = [f"{name} {count:,}" for name, count in list(found.classes.items())[:_NAMED]]
    more = len(found.classes) - len(shown)
    return [
        ("pictures", f"{found.used:,} of {counted(found.files, 'file')}{test}"),
        (
            "classes",
            f"{len(found.classes):,}: {', '.join(shown)}" + (f" and {more:,} more" if more else ""),
        ),
        ("formats", _counts(found.formats)),
        ("colours", _counts(found.modes)),
        (
            "sizes",
            f"shorter sides of {sides[0]:,} to {sides[2]:,} pixels, half of them at most {sides[1]:,}; the "
            f"largest picture has {pixels[1]:,} pixels",
        ),
        (
            "copies",
            f"{counted(found.copies.equal, 'picture')} {verb(found.copies.equal, 'repeats', 'repeat')} "
            "another",
        ),
    ]


def picture_warnings(found: PictureSurvey) -> list[str]:
    """What to look at again in the folder itself."""
    lines = [f"Left out: {reason}." for reason in grouped_reasons(found.unreadable)]
    if found.unlabelled:
        lines.append(
            f"{counted(found.unlabelled, 'picture')} {verb(found.unlabelled, 'is', 'are')} in no folder of a "
            "class, and left out: move each into a folder named like its class."
        )
    copies = found.copies
    if copies.across:
        lines.append(
            f"{counted(copies.across, 'picture')} for the test {verb(copies.across, 'is', 'are')} equal to "
            "one that is trained on, which makes a test look better than it is: delete one of each."
        )
    if copies.contradicting:
        lines.append(
            f"{counted(copies.contradicting, 'picture')} "
            f"{verb(copies.contradicting, 'is', 'are')} equal to one of another class: no model can be right "
            "about all of them."
        )
    if len(found.classes) < 2:
        lines.append("A classifier needs at least two classes: a folder for each.")
    if rare := [name for name, count in found.classes.items() if count < FEW]:
        lines.append(
            f"{len(rare):,} of {counted(len(found.classes), 'class')} "
            f"{verb(len(rare), 'has', 'have')} fewer than {FEW} pictures, such as {rare[0]!r:.60}: too few "
            "to learn or to test. Merge them, or add pictures."
        )
    return lines


def picture_advice(found: PictureSurvey) -> list[Advice]:
    """What to set, and why."""
    path = shlex.quote(found.path)
    lines = [
        Advice(
            f"To learn from them: umbel simulate --task {task_that_reads('pictures')} --data {path} --model "
            "FOLDER, with the folder of a vision model such as DINOv2 or ViT"
        )
    ]
    if 0 < found.sides[1] < _USUAL_SIDE / 2:
        lines.append(
            Advice(
                f"Half of the pictures have a side of at most {found.sides[1]:,} pixels, and are enlarged to "
                "the size of the base model. If it reads others, as DINOv2 does, a smaller one takes less "
                "time",
                key="model.image_size=112",
            )
        )
    most = LARGEST_PICTURE
    if found.pixels[1] > most:
        lines.append(
            Advice(
                f"The largest has {found.pixels[1]:,} pixels. A data owner leaves out those of more than "
                f"{most:,} (or {largest_file(most):,} bytes): save them smaller, or declare more",
                flag=f"umbel client init --largest-picture {found.pixels[1]}",
            )
        )
    return lines


def picture_table(found: PictureSurvey) -> Group:
    """Facts, what to look at again, what to set."""
    said = [str(one) for one in picture_advice(found)]
    return report(found.path, picture_facts(found), picture_warnings(found), said)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
