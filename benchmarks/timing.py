"""What the time of an owner's answers tells, filled up or not, and what filling costs."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engine import write_tiny_model

from umbel.client.account import Account
from umbel.client.agent import Agent
from umbel.client.budget import Budget
from umbel.client.policy import Policy
from umbel.client.timing import Timing
from umbel.client.work import WorkHere, Workplace
from umbel.clock import Clock, SystemClock
from umbel.flower import stamp, take_server_identity
from umbel.job import Job
from umbel.learning.filling import NOTHING, Filling, Spend
from umbel.learning.loading import load_learner
from umbel.learning.pace import Pace, measured
from umbel.learning.probing.probe import probed
from umbel.learning.tasks import task_for
from umbel.privacy.noise.sizes import Sizes
from umbel.privacy.randomness import SecretStream
from umbel.simulations.federation import federate
from umbel.wire.arrays import to_array_record
from umbel.wire.requests import ASSIGNMENT, PREPARE, TRAIN, Assignment

MOST_AUC = 0.55
LEAST_CORRELATION = 0.5
MOST_OVER = 1.1
DRAWS = 16_384
"""In a round that is compared: of fewer, chance alone makes the most likely number too large."""
ABOUT = f"""\
One owner's agent answers requests to train, in this process: LoRA on a transformer of 2 layers, texts of
at most 64 tokens, one thread. Three data sets take turns, round by round, so that other load on the
machine meets all alike:

  usual      texts of 4 to 64 tokens
  long       the same, but one text is of the greatest length in the place of the shortest
  more       the same and 1 % more records

Each answers {{}} rounds at once and as many that are filled up with work on invented texts, to an amount that
follows from public numbers. From the times of a round a distinguisher tells usual from the others as well as
the area under its ROC curve says (.5: not at all). At once the time follows the tokens that were drawn: their
correlation shows that the measurement sees what it should.

Then all texts are of the greatest length, and the time of a round is compared with the time that the same
round worked on records: for {{}} draws in a round, and for a tenth of that. More draws, fewer surprises: an
answer has room for as many draws as are exceeded once in 2**30 answers, which is a share of 6 / sqrt(draws)
above the mean, and some for the noise of the published size.

Bars: AUC of filled rounds at most {MOST_AUC}; correlation of others at least {LEAST_CORRELATION}; texts of
the greatest length and many draws: at most {MOST_OVER} x the time.
"""


PACES: dict[Path, Pace] = {}
"""One for all owners: it is the machine's, and tells nothing of any."""


class ProcessorClock:
    """This process's processor time, and what it would have waited: other work does not disturb it."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> float:
        return time.process_time() + self._skipped

    def wait_until(self, moment: float) -> None:
        self._skipped += max(0.0, moment - self.now())


CLOCK: Clock = SystemClock()


@dataclass(frozen=True)
class Published:
    """A size that was published before."""

    size: int
    known: bool = True

    def published(self, budget: Budget) -> Sizes:
        return Sizes(self.size)


class Timed:
    """A filling, and how long it took."""

    seconds = 0.0

    def __init__(self, filling: Filling) -> None:
        self._filling = filling
        self.passed, self.stepped, self.steps = filling.passed, filling.stepped, filling.steps

    def fill(self, spend: Spend) -> None:
        begun = CLOCK.now()
        self._filling.fill(spend)
        self.seconds = CLOCK.now() - begun


class Owner:
    """An owner of some texts, and a way to have its agent answer."""

    def __init__(
        self, folder: Path, name: str, lengths: list[int], steps: int, batch: int, base: Path
    ) -> None:
        data = folder / f"{name}.csv"
        with data.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for number, length in enumerate(lengths):
                words = f"n {' '.join(str(number))} " + "a " * 64
                # Two tokens frame each text.
                writer.writerow([" ".join(words.split()[: length - 2]), "ab"[number % 2]])
        self.job = Job.build(
            {
                "name": "timing",
                "model": {"base": str(base), "adapter": "lora", "max_length": 64},
                "data": {"path": str(data), "labels": ["a", "b"], "test_fraction": 0.0},
                "training": {
                    "rounds": 1000,
                    "local_steps": steps,
                    "batch_size": batch,
                    "learning_rate": 1e-4,
                    "device": "cpu",
                },
                "privacy": {"epsilon": 1e3, "limit": 1e6},
                "encryption": {"mode": "none"},
                "simulation": {"clients": 1, "encryption_required": False},
            }
        )
        federation = federate(self.job)
        share = federation.shares[0]
        self.job = federation.job
        self.learner = probed(load_learner(self.job, 2))
        self.tokens = 0
        owner = self

        class Counted(WorkHere):
            def filling(self, *arguments: Any, **named: Any) -> Filling:
                owner.filling = Timed(super().filling(*arguments, **named))
                return owner.filling

            def trained(self, *arguments: Any, **named: Any) -> Any:
                lookups = owner.learner.network.backbone.get_input_embeddings()
                handle = lookups.register_forward_hook(
                    lambda _, inputs, __: owner._count(inputs[0])
                )
                try:
                    return super().trained(*arguments, **named)
                finally:
                    handle.remove()

        data_ = federation.data(share)
        task = task_for(self.job, 2)
        if base not in PACES:
            PACES[base] = measured(self.learner, task, CLOCK.now)
        pace = PACES[base]
        timing = Timing(CLOCK, pace, "mary")
        self.filling = Timed(NOTHING)
        self._agents = {
            waits: Agent(
                "mary",
                Counted("mary", Workplace(self.learner, task), data_, pace),
                Account("mary", 1.0, False, Published(max(100, round(len(lengths), -1)))),
                folder / f"{name}-{waits}.sqlite",
                policy=Policy.simulated(self.job),
                timing=timing if waits else None,
                secrets=lambda _: SecretStream.from_os(),
            )
            for waits in (False, True)
        }
        self._round = 0
        self._ask(PREPARE, waits=True)  # what the first answer waits for is not what is measured

    def _count(self, ids: Any) -> None:
        self.tokens += int(ids.numel())

    def seconds(self, waits: bool) -> float:
        """Of one answer; `tokens` are then those that went through the model."""
        self.tokens, self._round = 0, self._round + 1
        begun = CLOCK.now()
        self._ask(TRAIN, waits)
        return CLOCK.now() - begun

    def _ask(self, kind: str, waits: bool) -> None:
        from flwr.app import Message, RecordDict

        take_server_identity(1)
        assignment = Assignment("0.1.0", "run", self.job.to_json(), self._round, 0, 1000)
        content = RecordDict({ASSIGNMENT: assignment.to_record()})
        content["arrays"] = to_array_record(self.learner.initial)
        message = Message(content, dst_node_id=2, message_type=kind)
        stamp(message)
        reply = self._agents[waits].handle(message)
        if reply.has_error():
            sys.exit(reply.error.reason)


def neighbours(folder: Path, base: Path, rounds: int, records: int) -> dict[str, Any]:
    """How well times tell neighbouring data sets apart, and how they follow the tokens."""
    drawn = np.random.default_rng(0).integers(8, 65, records).tolist()
    sets = {
        "usual": drawn,
        "long": [64, *sorted(drawn)[1:]],
        "more": [*drawn, *drawn[: max(1, records // 100)]],
    }
    owners = {n: Owner(folder, n, lengths, 2, 16, base) for n, lengths in sets.items()}
    found: dict[str, Any] = {}
    for waits in (False, True):
        seconds: dict[str, list[float]] = {name: [] for name in owners}
        tokens: list[int] = []
        for _ in range(rounds):
            for name, owner in owners.items():
                seconds[name].append(owner.seconds(waits))
                if name == "usual":
                    tokens.append(owner.tokens)
        found["filled" if waits else "at once"] = {
            "auc": {n: _auc(seconds["usual"], seconds[n]) for n in ("long", "more")},
            "correlation": float(np.corrcoef(tokens, seconds["usual"])[0, 1]),
            "seconds": {n: float(np.median(s)) for n, s in seconds.items()},
        }
    return found


def overhead(folder: Path, base: Path, rounds: int, draws: int) -> dict[str, float]:
    """How much longer a round takes, by its number of draws."""
    found = {}
    for part in (draws // 10, draws):
        owner = Owner(folder, f"full-{part}", [64] * (4 * part // 8), 8, part // 8, base)
        # Of one and the same round: by the next one the machine is another tenth faster or slower.
        ratios = []
        for _ in range(rounds):
            whole = owner.seconds(True)
            ratios.append(whole / (whole - owner.filling.seconds))
        found[str(part)] = float(np.median(ratios))
    return found


def _auc(one: list[float], other: list[float]) -> float:
    """Area under the ROC curve of telling by the time alone, in whichever direction is better."""
    greater = np.subtract.outer(other, one)
    area = float(((greater > 0) + 0.5 * (greater == 0)).mean())
    return max(area, 1 - area)


def bars(figures: dict[str, Any]) -> dict[str, bool]:
    """Which bars are kept."""
    *_, many = figures["overhead"].values()
    return {
        "auc": max(figures["filled"]["auc"].values()) <= MOST_AUC,
        "correlation": figures["at once"]["correlation"] >= LEAST_CORRELATION,
        "overhead": many <= MOST_OVER,
    }


def main(print_line: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT.format(200, DRAWS), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200, help="rounds of each (default: 200)")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"in a round (default: {DRAWS})")
    parser.add_argument("--only", choices=("times", "overhead"), help="one part, without the bars")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless all bars are kept")
    parser.add_argument("--smoke", action="store_true", help="few rounds, no bars: does it run?")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="count processor time, and skip waits: for a machine with other work",
    )
    arguments = parser.parse_args()
    import torch

    if arguments.processor:
        global CLOCK
        CLOCK = ProcessorClock()

    torch.set_num_threads(1)
    rounds, draws, records = arguments.rounds, arguments.draws, 400
    if arguments.smoke:
        rounds, draws, records = 2, 160, 60
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "model"
        base.mkdir()
        write_tiny_model(base)
        figures = {}
        if arguments.only != "overhead":
            figures = neighbours(Path(folder), base, rounds, records)
        PACES.clear()  # as the machine is now
        if arguments.only != "times":
            figures["overhead"] = overhead(Path(folder), base, min(rounds, 5), draws)
    figures["clock"] = "processor" if arguments.processor else "wall"
    figures["rounds"], kept = rounds, {} if arguments.only else bars(figures)
    figures["bars"] = kept
    if arguments.json:
        print_line(json.dumps(figures, indent=1))
    else:
        for how in (how for how in ("at once", "filled") if how in figures):
            of = figures[how]
            print_line(
                f"{how:>8}: AUC one long text {of['auc']['long']:.3f}, 1 % more records "
                f"{of['auc']['more']:.3f}; correlation with tokens {of['correlation']:+.2f}; "
                f"{of['seconds']['usual']:.3f} s a round"
            )
        for number, ratio in figures.get("overhead", {}).items():
            print_line(f"longest texts, {number:>5} draws a round: {ratio:.2f} x the time")
    return int(arguments.check and not arguments.smoke and not all(kept.values()))


if __name__ == "__main__":
    sys.exit(main())
