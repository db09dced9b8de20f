"""Why the model of a job reads nothing of some dialogues of a simulation's own file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..errors import DataError
from ..job import Job


def unread(job: Job, dialogues: Sequence[str]) -> dict[str, int]:
    """How many of these records have which fault (``Inputs.fault``), the most frequent first."""
    if not dialogues:
        return {}
    # Here, because torch comes with them, and most data have no such record.
    from ..learning.base_model import base_folder
    from ..learning.inputs import inputs_for

    inputs = inputs_for(job.kind, base_folder(job.model.base), job.model)
    found = Counter(inputs.fault(record, job.model.max_length) for record in dialogues)
    return dict(found.most_common())


def none_readable(job: Job, faults: dict[str, int]) -> DataError:
    """Of dialogues none of which can be learned from: what they have, and what to do about it."""
    from ..learning.dialogues import SPECIAL, TEMPLATE, TOO_LONG

    advice = {
        TOO_LONG: f"Raise model.max_length ({job.model.max_length}), or shorten them.",
        SPECIAL: "Take such text out of them.",
        TEMPLATE: 'Set model.template = "plain", or take another base model.',
    }
    said = ", ".join(f"{count:,} with {why}" for why, count in faults.items())
    todo = advice.get(next(iter(faults), ""), "Give others.")
    return DataError(f"{job.data.path}: no dialogue can be learned from: {said}. {todo}")
