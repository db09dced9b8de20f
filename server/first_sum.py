"""The first of a round's two secure sums: on the disk before the second one is asked for.

Owners answer the second from the updates that are in the first, and these enter no first sum again
(``privacy.secagg.second``). So a coordinator that died between the two reads what the first one brought, and
asks the same question of the same owners: nobody trains again, and nothing is charged. An owner answers only
what it would have answered the process that died, so what is kept here is trusted by nobody.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from flwr.app import Message, MetricRecord, RecordDict

from ..errors import UmbelError
from ..learning.counts import counts_from_list
from ..learning.model import arrays_digest
from ..run.files import write_whole
from ..wire.arrays import Arrays, to_array_record, to_arrays
from ..wire.requests import TRAIN, WEIGHT, only_arrays, only_metrics
from .collect import Collection
from .exchange import Stage

if TYPE_CHECKING:
    from .run import Run

_FILE = "first-sum.safetensors"
_APART = {"run", "kind", "stage", "minimum", "heard", "counts"}
"""Fields of a collection that are written in another form, or known beside it."""
_NOT_KEPT = {"spoiled", "counted"}
"""No second sum follows a spoiled one, and owners keep no state that would follow what was counted."""
_TOLD = tuple(each.name for each in fields(Collection) if each.name not in _APART | _NOT_KEPT)
"""What else is known of it, and has the form of JSON."""


@dataclass
class FirstSum(Collection):
    """What the first sum of a round brought, as an earlier process kept it. It can be iterated again."""

    dealt: list[list[str]] = field(default_factory=list)
    means: list[tuple[Arrays, int]] = field(default_factory=list)
    """The mean and the weight of each group."""

    @property
    def groups(self) -> list[list[str]]:
        return self.dealt

    def __iter__(self) -> Iterator[Message]:
        for mean, weight in self.means:
            content = RecordDict({"metrics": MetricRecord({WEIGHT: weight})})
            content["arrays"] = to_array_record(mean)
            # Not from anybody: of a reply only the content counts.
            yield Message(content, dst_node_id=self.run.nodes[self.answered[0]], message_type=TRAIN)


def keep_first(first: Collection) -> list[Message]:
    """The replies of a first sum, which is written down durably."""
    from safetensors.numpy import save

    run, stage, replies = first.run, first.stage, list(first)
    assert run.sums is not None
    tensors: Arrays = {}
    weights = []
    for place, reply in enumerate(replies):
        mean = to_arrays(only_arrays(reply.content))
        tensors |= {f"{place}/{name}": array for name, array in mean.items()}
        weights.append(only_metrics(reply.content)[WEIGHT])
    values = {
        "round": stage.round,
        "attempt": stage.attempt,
        "test": stage.test,
        "minimum": first.minimum,
        "roster": run.sums.roster.hash.hex(),
        "model": arrays_digest(run.arrays),
        "groups": [[name for name in group if name in first.answered] for group in first.groups],
        "weights": weights,
        "heard": sorted(first.heard),
        "counts": {name: counts.to_list() for name, counts in first.counts.items()},
        **{name: getattr(first, name) for name in _TOLD},
    }
    content = save(tensors, {"values": json.dumps(values)})
    write_whole(run.folder.path / _FILE, content)
    return replies


def kept_first(run: Run, round_: int) -> FirstSum | None:
    """The first sum of a round that an earlier process kept, if a second one can follow from it.

    None if there is none that is whole, of this model and roster, and of the attempt in which that process
    stopped; and if one of its owners is away.
    """
    if run.sums is None or not run.second(round_):
        return None
    found = _read(run)
    if found is None:
        return None
    (values, first), stopped = found, run.sums.stopped
    same = (
        values["round"] == round_
        and values["roster"] == run.sums.roster.hash.hex()
        and values["model"] == arrays_digest(run.arrays)
        and (stopped is None or stopped.attempt == first.stage.attempt)
    )
    return first if same and set(first.answered) <= set(run.candidates) else None


def let_go_of_first(run: Run) -> None:
    """Delete what is kept: its round is over, or begins again."""
    with contextlib.suppress(OSError):
        (run.folder.path / _FILE).unlink(missing_ok=True)


def _read(run: Run) -> tuple[Mapping[str, Any], FirstSum] | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = (run.folder.path / _FILE).read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        values, tensors = json.loads(header["__metadata__"]["values"]), load(content)
        job, shapes = run.plan.job, run.channels(values["round"]).shapes
        means = [
            ({name: tensors[f"{place}/{name}"] for name in shapes}, weight)
            for place, weight in enumerate(values["weights"])
        ]
        counts = {name: counts_from_list(job, each) for name, each in values["counts"].items()}
        stage = Stage(values["round"], values["attempt"], values["test"])
        first = FirstSum(
            run,
            TRAIN,
            stage,
            values["minimum"],
            heard=set(values["heard"]),
            counts=counts,
            dealt=values["groups"],
            means=means,
            **{name: values[name] for name in _TOLD},
        )
    except (OSError, KeyError, TypeError, ValueError, SafetensorError, UmbelError):
        return None
    return values, first
