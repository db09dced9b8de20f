"""A job for somebody who brings data and no job file: the recipe's settings, by what the file holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..errors import UmbelError
from ..job import Job, dotted
from ..job.toml_file import parse_override
from ..planning.recipe import Numbers, has_recipe, recipe, source
from ..server.run import Listener
from .federation import federate


def first_job(
    given: Mapping[str, Any], overrides: Sequence[str] = (), listener: Listener | None = None
) -> Job:
    """The job of `given` (dotted keys) and `overrides` (``KEY=VALUE``); the recipe chooses for the rest.

    They are written into the job as values; ``Job.recipe`` says which they are and what they follow from.
    Raises ``JobError`` or ``DataError``.
    """
    named = _name_of(given)
    found = settings(given, overrides, listener)
    return Job.compose(None, named | found | dict(given), overrides)


def _name_of(given: Mapping[str, Any]) -> dict[str, str]:
    """The job's name: its file's, as far as a name may have its characters."""
    stem = PurePath(str(given.get("data.path", ""))).name.split(".")[0]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:64]
    return {"name": name} if name else {}


def settings(
    given: Mapping[str, Any], overrides: Sequence[str] = (), listener: Listener | None = None
) -> dict[str, Any]:
    """What the recipe adds to a job, by dotted key; empty if it adds nothing, or the data cannot be read.

    The data are read as a run will read them: what is wrong with them is then said by the run, or the plan.
    """
    said = dict(given) | dict(map(parse_override, overrides))
    asked = {key for key, _ in dotted(said)}
    job = Job.compose(None, given, overrides)
    if not has_recipe(job, asked):
        return {}
    try:
        federation = federate(job, listener)
        numbers = Numbers.of(federation.job, federation.facts)
        found = recipe(job, asked, numbers)
    except UmbelError:
        return {}
    return found | {"recipe": source(job, found, numbers)}
