"""How texts are padded, and what a probe of the base model demands of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..job import Job

if TYPE_CHECKING:
    from ..learning.probing.verdict import Verdict


def padding_refusals(job: Job, verdict: Verdict | None) -> list[str]:
    """Why the model may not train under per-record privacy as the job pads; nothing of any record."""
    if not job.noised_locally:
        return []
    if verdict is None:
        return [
            "the base model was not probed, so it is not known whether its texts are independent"
        ]
    if verdict.allows(job.model.padding):
        return []
    if verdict.padding is None:
        return [
            f"in {job.model.base} records influence each other: {verdict.reason}. One record "
            "would move a step by more than privacy.clipping_norm, so no guarantee would hold; "
            "use another base model, or another model.adapter"
        ]
    return [
        f"in {job.model.base} the length of a batch's other texts changes what a record adds: "
        f'{verdict.reason}. Set model.padding = "max_length"'
    ]


def padding_warnings(job: Job, verdict: Verdict | None, cost: float | None = None) -> list[str]:
    """What follows from the padding; `cost`: tokens computed, over those that the texts have."""
    warnings = []
    if job.model.padding == "max_length" and job.kind.reads != "pictures":
        why = f", for otherwise {verdict.reason}" if verdict and verdict.reason else ""
        times = f" {cost:.1f} times the tokens of the texts are computed" if cost else ""
        warnings.append(
            f'model.padding = "max_length": every text is padded to {job.model.max_length} tokens{why}.'
            f"{times or ' Short texts cost as much time as long ones'}."
        )
    if not job.noised_locally and verdict is not None and not verdict.allows(job.model.padding):
        warnings.append(
            f"In {job.model.base} texts of a batch influence each other: {verdict.reason}. Its answer "
            "for a text depends on the other texts in the same batch."
        )
    return warnings
