"""What a usable reply looks like. Everything else counts as a failure of its client.

The checks raise ``MessageError``, whose text goes into the run's log beside the client's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from flwr.app import Message

from ..errors import MessageError
from ..learning.counts import counts_from_list
from ..learning.metrics import Counts
from ..learning.shaping import other_fixed
from ..planning.plan import Plan
from ..strategies import Channels
from ..strategies.fold import check_range
from ..wire.arrays import to_arrays
from ..wire.requests import LEDGER, OWN_STATE, WEIGHT, Readiness, only_arrays, only_metrics
from .run import Run

_ROUNDING = 1e-6
_MOST_RECORDS = _MOST_SUMS = 2**40


def update_check(run: Run, channels: Channels) -> Callable[[Message], None]:
    """An update has the strategy's arrays, finite and in range, and sound scalars beside them."""
    shapes, scalars = channels.shapes, scalars_check(run)

    def check(reply: Message) -> None:
        check_range(to_arrays(only_arrays(reply.content), like=shapes))
        scalars(reply)

    return check


def scalars_check(run: Run) -> Callable[[Message], None]:
    """A reply has the planned weight, an epsilon and a loss that are numbers, and a sound head."""
    names = run.names

    def check(reply: Message) -> None:
        metrics = only_metrics(reply.content)
        weight = metrics[WEIGHT]
        planned = run.plan.by_name[names[reply.metadata.src_node_id]].weight
        if weight != planned:
            raise MessageError(f"sent a weight of {weight}, but the plan says {planned}")
        for name in ("epsilon", "loss"):
            number = metrics.get(name, 0.0)
            if isinstance(number, list) or not math.isfinite(number):
                raise MessageError(f"sent a {name} that is not a number: {number}")
        head_of(reply), told_state(reply)

    return check


def told_state(reply: Message) -> int | None:
    """The round that a client's own state is of, if it has one; a ``MessageError`` if it cannot be one."""
    told = only_metrics(reply.content).get(OWN_STATE)
    if told is not None and (not isinstance(told, int) or not 0 <= told <= _MOST_SUMS):
        raise MessageError(f"says that its own state is of round {told!r:.100}")
    return told


def believed(plan: Plan, name: str, told: object) -> tuple[float, str]:
    """What a client has spent in this run, and how the figure that it told contradicts the plan, if so.

    A client that says more than its agent may spend would make the statement for all false. Then the
    most that it can have spent stands, and the run goes on.
    """
    most = plan.job.privacy.owner_limit
    if isinstance(told, int | float) and 0 <= told <= most * (1 + _ROUNDING):
        return float(told), ""
    return most, (
        f"{name} reports an epsilon of {told:.4g}, but by the plan this run costs it 0 to {most:g}: "
        f"{most:g} is recorded"
    )


def head_of(reply: Message) -> str | None:
    """The sealed head of its ledger that a client sent; a ``MessageError`` if it cannot be one."""
    record = reply.content.config_records.get(LEDGER)
    if record is None:
        return None
    head = record.get("head")
    if not isinstance(head, str) or not re.fullmatch("[0-9a-f]{64}", head):
        raise MessageError(f"sent a malformed ledger head: {head!r:.100}")
    return head


def counts_check(run: Run) -> Callable[[Message], None]:
    """Counts can have been counted, and fit the task."""

    def check(reply: Message) -> None:
        weight = only_metrics(reply.content)[WEIGHT]
        if isinstance(weight, list) or not weight >= 1:
            raise MessageError(f"sent a weight of {weight} for its held-out records")
        try:
            counts_of(run, reply).metrics(run.plan.job.data.labels or [])
        except ValueError as error:
            raise MessageError(f"sent counts that do not fit the task: {error}") from None

    return check


def counts_of(run: Run, reply: Message) -> Counts:
    """The counts in a reply; a ``MessageError`` if there are none."""
    numbers = only_metrics(reply.content).get("counts")
    if not isinstance(numbers, list):
        raise MessageError("sent no counts of its held-out records")
    return counts_from_list(run.plan.job, numbers)


def readiness_of(reply: Message) -> Readiness:
    """What a client says of itself; a ``MessageError`` if it says what cannot be."""
    record = reply.content.config_records.get("readiness")
    if record is None:
        raise MessageError("answered without saying whether it is ready")
    found = Readiness.from_record(record)
    if not (
        0 <= found.size <= _MOST_RECORDS
        and 0 < found.training_share <= 1
        and 0 <= found.slot <= _MOST_SUMS
        and 0 <= found.round <= _MOST_SUMS
    ):
        raise MessageError(
            f"states what its data cannot have: a size of {found.size:,}, of which a share of "
            f"{found.training_share:g} is trained on, after {found.slot:,} sums and {found.round:,} rounds"
        )
    return found


def check_fits(plan: Plan, readiness: Readiness) -> None:
    """A client is one of the plan's, with the same base model and size; else ``MessageError``.

    One that does not fit takes no part, and the others go on if they are enough: what an owner says of
    itself decides about nobody else.
    """
    if readiness.name not in plan.by_name:
        raise MessageError(
            f"A client named {readiness.name!r:.100} answered, but the plan has no such client."
        )
    if readiness.base_model != plan.model.base_digest:
        raise MessageError(
            f"{readiness.name} has another base model (SHA-256 {readiness.base_model[:12]}) than "
            f"the plan ({plan.model.base_digest[:12]}): install the same files of {plan.job.model.base}."
        )
    if readiness.fixed != plan.model.fixed_digest:
        told_of = readiness.name, readiness.fixed, plan.model.fixed_digest
        raise MessageError(f"{other_fixed(*told_of)}.")
    planned = plan.by_name[readiness.name]
    told = (readiness.size, readiness.training_share, readiness.holds_out)
    if told != (planned.size, planned.training_share, planned.holds_out):
        raise MessageError(
            f"{readiness.name} now states another size of its data ({readiness.size:,}, of which "
            f"{readiness.training_share:.0%} are trained on) than the plan was made for "
            f"({planned.size:,}, {planned.training_share:.0%}): start a new run."
        )
