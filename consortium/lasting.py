"""Whether a run may outlast the roster that it would go by."""

from __future__ import annotations

import contextlib
import math
import time

from ..errors import ConsortiumError, PlanRefused
from ..foreign import typed
from ..job import Job
from ..privacy.secagg.signed import DAY, day
from .authority import Consortium
from .warrants import longest_seconds


def outlasts(consortium: Consortium, job: Job) -> str:
    """Why a run of this job may last longer than the roster; nothing if it does not.

    Agents go by no roster that has ended, so such a run would stand still in the middle.
    """
    ends, needed = consortium.roster_ends(), longest_seconds(job)
    if not job.encrypted or not ends or time.time() + needed < ends:
        return ""
    # A server without keys is brought what is signed elsewhere.
    keys, taken = (
        (typed(consortium.path), "") if consortium.holds_keys else ("KEYS", ", and umbel take")
    )
    return (
        f"The run may last {_so_long(needed)} (rounds, spare rounds, cohort.deadline), but the "
        f"roster of {consortium.card.name} is valid only until {day(ends)}. Plan a shorter run, "
        f"or sign the roster for longer: umbel sign roster {keys} --days "
        f"{needed // DAY + 2}{taken}"
    )


def _so_long(seconds: float) -> str:
    hours = math.ceil(seconds / 3600)
    if hours < 48:
        return "an hour" if hours == 1 else f"{hours} hours"
    return f"{math.ceil(seconds / DAY)} days"


def check_lasts(consortium: Consortium, job: Job) -> None:
    """Refuse (``PlanRefused``) a job that may outlast the roster; prolong that first, if the key is here.

    So is one that a key of before signed: a rotation that was cut off had not come to it.
    """
    if outlasts(consortium, job) or not consortium.roster_is_by_todays_key:
        with contextlib.suppress(ConsortiumError):
            consortium.prolong()
    refuse_longer(consortium, job)


def refuse_longer(consortium: Consortium, job: Job) -> None:
    """Refuse (``PlanRefused``) a job that may outlast the roster."""
    if reason := outlasts(consortium, job):
        raise PlanRefused(reason)
