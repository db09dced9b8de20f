"""What a deployment costs beside training: time of a round, and memory of a coordinator."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import deployment_jobs as jobs
import deployment_trips as trips

from umbel.errors import UmbelError

MOST_SECONDS = 12.0
MOST_VECTORS = 3.0
MODEL_LOADS = 1
ROUNDS, LARGE_ROUNDS, LAYERS = 10, 2, 11
SMOKE = {"rounds": 2, "repeats": 1, "layers": 1, "width": 24, "check": False}
MEGABYTE = 2**20
VECTOR = 4
"""Bytes of a parameter where it travels."""
FLOWERS_SECAGG = "32 to 36 s"
TRIPS = ("train", "query.confirm", "query.reveal")
"""Of a round that is not the first: the keys came with the last round's opening."""

ABOUT = f"""\
In one run, on this machine: `umbel server` and {jobs.AGENTS} agents as processes over loopback, with
TLS, authenticated nodes and secure aggregation; what an operator and data owners start, set up as
`umbel rehearse` does. Agents write down how long they take over each message; nothing else of them
is changed.

  rounds  --rounds rounds with about 1M trained parameters (MiniLM, LoRA of rank 24, two steps of 8
          examples). A round lasts from the end of the one before to its own, its checkpoint
          included. What is beyond training is a round's seconds without those that the slowest
          agent spends in training steps. The first round is shown apart: its keys take a trip of
          their own, and the model is tested. Model loads are counted in the agents' audit logs.
  trips   The same SuperLink, SuperNodes, keys and TLS, with agents that send back at once what
          they get: an empty message, and one of the round's size. Three trips of the first kind
          are what waiting for one another costs a round before anybody has done any work.
          Beside it, the same with Flower's own SuperNode and Grid, which look every 3 seconds,
          and an agent that looks every second, as Flower's SuperExec does. (That one also starts
          a process for every message, which is not counted here.)
  memory  {LARGE_ROUNDS} rounds with about 100M trained parameters, all of a BERT with random weights: 400 MB
          a vector. Peaks are the kernel's (VmHWM). Idle is the coordinator while it waits for
          its agents to get ready: its model is loaded, which for a whole model makes two vectors
          of the idle memory. Needs about 20 GB of memory and 8 GB of disk.

Other work on the machine shows in every figure. Linux only: it reads /proc.

Bars: {MOST_SECONDS:g} s a round beyond training (Flower's SecAgg+, deployed, takes {FLOWERS_SECAGG});
coordinator {MOST_VECTORS:g} vectors above idle; {MODEL_LOADS} model load an agent.
"""


@dataclass(frozen=True)
class Bar:
    """A figure and the bound that it has to keep."""

    name: str
    value: float
    bound: float

    @property
    def held(self) -> bool:
        return self.value <= self.bound

    def __str__(self) -> str:
        verdict = "" if self.held else "   MISSED"
        return f"  {self.name:<52}{self.value:>8.3f}   (bar <= {self.bound:g}){verdict}"


def measure_rounds(ran: jobs.Ran) -> dict[str, Any]:
    """Medians over the rounds after the first, and the first beside them."""
    rounds = [_round(ran, number) for number in range(1, len(ran.rounds()) + 1)]
    keys = rounds[-1].keys()
    return {
        "parameters": ran.parameters,
        "rounds": len(rounds),
        "first": rounds[0],
        "round": {key: statistics.median(r[key] for r in rounds[1:] or rounds) for key in keys},
        "slowest": max(r["beyond_training"] for r in rounds[1:] or rounds),
        "model_loads": max(ran.model_loads()),
    }


def _round(ran: jobs.Ran, number: int) -> dict[str, float]:
    """Where the seconds of a round went."""
    begin, end, event = ran.rounds()[number - 1]
    said: dict[str, float] = event["trips"]
    learning = ran.slowest("train", number, "learning")
    work = {kind: ran.slowest(kind, number) for kind in ("query.prekey", *TRIPS)}
    short = sum(said.values())
    cpu = {
        f"cpu_{role}": sum(seen.cpu_between(begin, end) for seen in ran.watch.of(role))
        for role in ("coordinator", "link", "node", "agent")
    }
    return {
        "seconds": end - begin,
        "learning": learning,
        "beyond_training": end - begin - learning,
        "keys_trip": said.get("prekey", 0.0),
        "train_trip": event["seconds"] - short - learning,
        "confirm_trip": said.get("confirm", 0.0),
        "open_trip": said.get("reveal", 0.0),
        "between": end - begin - event["seconds"],
        "agents_work": sum(work.values()) - learning,
        **cpu,
    }


def measure_trips(stage: Any, folder: Path, repeats: int, size: int) -> dict[str, Any]:
    """Medians of seconds a trip."""
    ours = trips.measure(stage, folder / "umbel", "umbel", {0: 4 * repeats, size: 2 * repeats})
    theirs = trips.measure(stage, folder / "flower", "flower", {0: repeats, size: repeats})
    return {
        "bytes": size,
        "umbel": {"empty": statistics.median(ours[0]), "full": statistics.median(ours[size])},
        "flower": {"empty": statistics.median(theirs[0]), "full": statistics.median(theirs[size])},
        "all": {"umbel": ours, "flower": theirs},
    }


def measure_memory(ran: jobs.Ran) -> dict[str, Any]:
    """Peaks in bytes, and where in a round the coordinator has its own."""
    (coordinator,) = ran.watch.of("coordinator")
    ready = next(at for at, event in ran.events if event["event"] == "ready")
    idle = [size for at, size in coordinator.resident if at <= ready]
    vector = VECTOR * ran.parameters
    phases = {
        f"round {number}": coordinator.peak_between(begin, end)
        for number, (begin, end, _) in enumerate(ran.rounds(), start=1)
    }
    over = ran.rounds()[-1][1]
    return {
        "parameters": ran.parameters,
        "vector": vector,
        "idle": idle[-1],
        "peak": coordinator.peak,
        "above_idle": (coordinator.peak - idle[-1]) / vector,
        "phases": {
            "before": max(idle),
            **phases,
            "after": coordinator.peak_between(over, float("inf")),
        },
        "link": ran.watch.peak("link"),
        "agent": ran.watch.peak("agent"),
        "node": ran.watch.peak("node"),
        "round_seconds": [end - begin for begin, end, _ in ran.rounds()],
    }


def bars(figures: dict[str, Any]) -> list[Bar]:
    """Every bar that this run can tell something about."""
    found = []
    if "rounds" in figures:
        rounds = figures["rounds"]
        found += [
            Bar(
                "seconds a round beyond training", rounds["round"]["beyond_training"], MOST_SECONDS
            ),
            Bar(f"model loads in {rounds['rounds']} rounds", rounds["model_loads"], MODEL_LOADS),
        ]
    if "memory" in figures:
        above = figures["memory"]["above_idle"]
        found.append(Bar("coordinator's vectors above idle", above, MOST_VECTORS))
    return found


def report_rounds(figures: dict[str, Any]) -> str:
    found, first = figures["round"], figures["first"]
    rows = [
        f"{jobs.AGENTS} agents, {figures['parameters']:,} parameters, {figures['rounds']} rounds; "
        "median of all but the first, and the first",
        *(
            f"  {text:<46}{found[key]:>8.2f} s{first[key]:>10.2f} s"
            for text, key in (
                ("a round", "seconds"),
                ("training (and tests), slowest agent", "learning"),
                ("beyond training", "beyond_training"),
                ("  of which the keys' trip", "keys_trip"),
                ("  the trip to train, without training", "train_trip"),
                ("  the trip to confirm", "confirm_trip"),
                ("  the trip to open, and the sum", "open_trip"),
                ("  checkpoint, and what is between rounds", "between"),
                ("  agents' own work in all trips", "agents_work"),
            )
        ),
        "  CPU seconds a round, training included: "
        + ", ".join(
            f"{role} {found[f'cpu_{role}']:.2f}"
            for role in ("coordinator", "link", "node", "agent")
        )
        + " (nodes and agents together)",
        f"  the longest round: {figures['slowest']:.2f} s beyond training",
    ]
    return "\n".join(rows)


def report_trips(figures: dict[str, Any], rounds: dict[str, Any] | None) -> str:
    rows = [f"{'trips without any work':<34}{'empty':>10}{figures['bytes'] / 1e6:>9.1f} MB"]
    for name, text in (("umbel", "our SuperNode, our way to ask"), ("flower", "Flower's own")):
        found = figures[name]
        rows.append(f"  {text:<32}{found['empty']:>8.2f} s{found['full']:>9.2f} s")
    waiting, transfer = _split(figures)
    rows.append(
        f"  a round is {len(TRIPS)} trips: {waiting:.2f} s of waiting (Flower's own "
        f"{len(TRIPS) * figures['flower']['empty']:.2f} s), {transfer:.2f} s for the vectors"
    )
    if rounds:
        rest = rounds["round"]["beyond_training"] - waiting - transfer
        rows.append(f"  what is left of a round, Umbel's own work: {rest:.2f} s")
    return "\n".join(rows)


def _split(figures: dict[str, Any]) -> tuple[float, float]:
    """Of a round: what waiting costs, and what sending a model and a vector adds."""
    ours = figures["umbel"]
    return len(TRIPS) * ours["empty"], ours["full"] - ours["empty"]


def report_memory(figures: dict[str, Any]) -> str:
    vector = figures["vector"]

    def sized(size: float) -> str:
        return f"{size / MEGABYTE:>9,.0f} MiB{size / vector:>8.2f} vectors"

    seconds = ", ".join(f"{s:.1f}" for s in figures["round_seconds"])
    return "\n".join(
        [
            f"{jobs.AGENTS} agents, {figures['parameters']:,} parameters, a vector is "
            f"{vector / MEGABYTE:,.0f} MiB; rounds of {seconds} s",
            f"  {'coordinator, idle':<30}{sized(figures['idle'])}",
            *(f"  {'coordinator, ' + k:<30}{sized(v)}" for k, v in figures["phases"].items()),
            f"  {'coordinator, peak':<30}{sized(figures['peak'])}"
            f"   {figures['above_idle']:.2f} above idle",
            f"  {'SuperLink, peak':<30}{sized(figures['link'])}",
            f"  {'an agent, peak':<30}{sized(figures['agent'])}",
            f"  {'a SuperNode, peak':<30}{sized(figures['node'])}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"with 1M parameters (default: {ROUNDS})"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="Flower's trips; ours are 2 or 4 x it (default: 5)"
    )
    parser.add_argument(
        "--layers", type=int, default=LAYERS,
        help=f"of the large model; fewer if memory is short (default: {LAYERS})",
    )  # fmt: skip
    parser.add_argument(
        "--only", choices=("rounds", "trips", "memory"), action="append", help="[all three]"
    )
    parser.add_argument("--folder", type=Path, help="for all files; kept [a temporary one]")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a little of each, no bars: does it run?",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    arguments = parser.parse_args(namespace=argparse.Namespace(width=jobs.WIDTH))
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    wanted = arguments.only or ["rounds", "trips", "memory"]
    figures: dict[str, Any] = {}

    def say(text: str) -> None:
        if not arguments.json:
            print(text, flush=True)

    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="umbel-deployment-"))
    try:
        _measure(figures, wanted, arguments, folder.resolve(), say)
    except UmbelError as error:
        sys.exit(str(error))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    judged = bars(figures)
    say("bars\n" + "\n".join(str(bar) for bar in judged))
    if arguments.json:
        print(json.dumps(figures | {"bars": [asdict(bar) | {"held": bar.held} for bar in judged]}))
    return int(arguments.check and not all(bar.held for bar in judged))


def _measure(
    figures: dict[str, Any], wanted: list[str], given: Any, folder: Path, say: Any
) -> None:
    """Each part is printed when it is done."""
    if "rounds" in wanted or "trips" in wanted:
        rounds = given.rounds if "rounds" in wanted else 1
        ran = jobs.run(jobs.million(rounds), folder / "rounds")
        if "rounds" in wanted:
            figures["rounds"] = measure_rounds(ran)
            say(report_rounds(figures["rounds"]))
        if "trips" in wanted:
            size = VECTOR * ran.parameters
            figures["trips"] = measure_trips(ran.stage, folder / "trips", given.repeats, size)
            say(report_trips(figures["trips"], figures.get("rounds")))
    if "memory" in wanted:
        model = folder / "model"
        model.mkdir(parents=True)
        jobs.write_large_model(model, given.layers, given.width)
        ran = jobs.run(jobs.large(LARGE_ROUNDS, model), folder / "memory")
        figures["memory"] = measure_memory(ran)
        say(report_memory(figures["memory"]))


if __name__ == "__main__":
    sys.exit(main())
