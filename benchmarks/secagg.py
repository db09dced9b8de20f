"""What secure aggregation costs a client and the server, beside plain AES and Flower's SecAgg+."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import secagg_demo
import secagg_flower
import secagg_stages
from secagg_slots import Slots, random_update

from umbel.errors import TooFewMembers

MOST_OVER_AES = 3.5
LEAST_CLIENT_SPEEDUP = 5.0
MOST_BYTES = 0.5
LEAST_SERVER_SPEEDUP = 10.0
MOST_LARGE_SECONDS = 2.0
MOST_LARGE_VECTORS = 2.0
MOST_ADDED = 0.05
MOST_POINTS = 0.2

MEMBERS, DROPOUTS, PARAMETERS = 10, 3, 1_000_000
LARGE_MEMBERS, LARGE_DROPOUTS, LARGE_PARAMETERS = 8, 1, 42_000_000
"""42M: an adapter of rank 16 for a model of 8B parameters."""
ROSTERS, SHARES, LENGTHS = (3, 10, 50, 100), (0.0, 0.1, 0.3), (100_000, 1_000_000, 10_000_000)
MEASURED = 3


@dataclass(frozen=True)
class Sizes:
    """How large the vectors and cohorts are that are measured."""

    members: int = MEMBERS
    dropouts: int = DROPOUTS
    parameters: int = PARAMETERS
    large_parameters: int = LARGE_PARAMETERS
    turns: int = secagg_stages.TURNS
    cells: tuple[tuple[int, int, int], ...] = ()
    """Of the table; none: all of them."""


SMOKE = Sizes(5, 1, 2_000, 5_000, 1, ((3, 0, 1_000), (5, 1, 1_000), (3, 3, 1_000)))
OURS_THEIRS = ("umbel", "flower")

ABOUT = f"""\
In one run, on the CPU:

  stages   CPU ms for a million parameters, one thread: quantise, mask, add, hash, unmask, decode;
           mask + add over plain AES-128-CTR (`update_into`) over the same bytes, a mask. Of plain
           AES in one call and in chunks that stay in the cache, the faster one counts.
  flower   Whole rounds of {MEMBERS} members with {PARAMETERS:,} parameters, {DROPOUTS} of which drop
           out after they sent their shares: Umbel's members with journals, and the secaggplus_mod
           and SecAggPlusWorkflow of the installed flwr with the same graph and threshold. CPU
           seconds of a client (mean of the survivors) and of the server, and what a client sends.
  table    CPU seconds and peak memory for {ROSTERS} members; memory in vectors of 4 bytes a
           parameter, at a client without the update itself, at the server with the vector that is
           just arriving. Up to {MEASURED} clients a cell are measured, once; the others take part in
           full, but for their masks, which are put into the sum before it is opened. "refused":
           the protocol opens no sum of so few.
  large    {LARGE_MEMBERS} members, {LARGE_DROPOUTS} dropout, {LARGE_PARAMETERS:,} parameters.
  demo     (--demo only) examples/reviews.toml with encryption and without, by the clock. What the
           rounds take longer is set beside the whole federated part, in which features are computed
           once (the bar), and beside the rounds alone, which the features leave next to no work.

Seconds are the CPU's but for the demo; ours and theirs take turns, and ratios are medians over
--repeats. Memory is traced in runs of its own. All work is on one thread. Training and the network
are in no figure but the demo's. A client's message is made up to the bytes that Flower sends.

Bars: mask + add at most {MOST_OVER_AES} x AES. Beside Flower: client {LEAST_CLIENT_SPEEDUP:g} x as fast,
{MOST_BYTES:g} x its bytes; server {LEAST_SERVER_SPEEDUP:g} x as fast. Large: {MOST_LARGE_SECONDS:g} s and
{MOST_LARGE_VECTORS:g} vectors at a client. Demo: {MOST_ADDED:.0%} longer, {MOST_POINTS} points.
"""


@dataclass(frozen=True)
class Bar:
    """A figure and the bound that it has to keep."""

    name: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def held(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "" if self.held else "   MISSED"
        return f"  {self.name:<52}{self.value:>8.3f}   (bar {sign} {self.bound:g}){verdict}"


def compare(repeats: int, size: Sizes, folder: Path) -> dict[str, Any]:
    """Umbel's slots and Flower's rounds in turn; medians of figures and of ratios."""
    update = random_update(size.parameters)
    slots = Slots(size.members, folder / "compare", measured=size.members)
    threshold = size.members // 2 + 1

    def ours() -> dict[str, Any]:
        return slots.run(size.dropouts, update)

    def theirs() -> dict[str, Any]:
        return secagg_flower.run(size.members, size.dropouts, threshold, update)

    # The second of two each: a client runs one of them, and finds its own memory mapped and cached.
    pairs = [((ours(), ours())[1], (theirs(), theirs())[1]) for _ in range(repeats)]
    figures: dict[str, Any] = {
        name: _medians([pair[place] for pair in pairs]) for place, name in enumerate(OURS_THEIRS)
    }
    for party in ("client", "server"):
        ratios = [flower[f"{party}_cpu_s"] / umbel[f"{party}_cpu_s"] for umbel, flower in pairs]
        figures[f"{party}_speedup"] = statistics.median(ratios)
    figures["client_speedup_without_journal"] = statistics.median(
        flower["client_cpu_s"] / (umbel["client_cpu_s"] - umbel["stages"]["journal"])
        for umbel, flower in pairs
    )
    figures["bytes_ratio"] = figures["umbel"]["bytes_up"] / figures["flower"]["bytes_up"]
    return figures


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of every number, stages included."""
    return {
        key: _medians([run[key] for run in runs])
        if isinstance(value, dict)
        else statistics.median(run[key] for run in runs)
        for key, value in runs[0].items()
    }


def cells(quick: bool) -> list[tuple[int, int, int]]:
    """(members, dropouts, parameters) of the table. A share of dropouts is at least one member."""
    return [
        (members, dropouts, parameters)
        for members in ROSTERS
        for parameters in LENGTHS
        for dropouts in sorted({max(math.floor(s * members), int(s > 0)) for s in SHARES})
        if not quick or (members <= 10 and parameters <= 1_000_000)
    ]


def measure_cell(members: int, dropouts: int, parameters: int, folder: Path) -> dict[str, Any]:
    """One line of the table: one slot for seconds, another for memory."""
    cell: dict[str, Any] = {"members": members, "dropouts": dropouts, "parameters": parameters}
    update = random_update(parameters)
    place = folder / f"cell-{members}-{dropouts}-{parameters}"
    slots = Slots(members, place, measured=min(MEASURED, members - dropouts))
    try:
        cell |= slots.run(dropouts, update)
        cell |= slots.run(dropouts, update, memory=True)
    except TooFewMembers as error:
        cell["refused"] = str(error)
    return cell


def measure_large(repeats: int, size: Sizes, folder: Path) -> dict[str, Any]:
    """The client with a large adapter: medians of seconds; memory from one run."""
    update = random_update(size.large_parameters)
    slots = Slots(LARGE_MEMBERS, folder / "large")
    figures = _medians([slots.run(LARGE_DROPOUTS, update) for _ in range(repeats)])
    figures |= slots.run(LARGE_DROPOUTS, update, memory=True)
    return figures | {"journal_share": figures["stages"]["journal"] / figures["client_cpu_s"]}


def bars(figures: dict[str, Any]) -> list[Bar]:
    """Every bar that this run can tell something about."""
    found = []
    if "stages" in figures:
        ratio = figures["stages"]["mask_add_over_aes"]
        found.append(Bar("mask + add over plain AES-CTR", ratio, MOST_OVER_AES))
    if "flower" in figures:
        both = figures["flower"]
        found += [
            Bar("client, times faster", both["client_speedup"], LEAST_CLIENT_SPEEDUP, True),
            Bar("client, bytes over Flower's", both["bytes_ratio"], MOST_BYTES),
            Bar("server, times faster", both["server_speedup"], LEAST_SERVER_SPEEDUP, True),
        ]
    if "large" in figures:
        large = figures["large"]
        found += [
            Bar("42M: CPU seconds of a client", large["client_cpu_s"], MOST_LARGE_SECONDS),
            Bar("42M: vectors at a client", large["client_peak_vectors"], MOST_LARGE_VECTORS),
        ]
    if "demo" in figures:
        demo = figures["demo"]
        found += [
            Bar("demo: share added, features included", demo["added_to_federated"], MOST_ADDED),
            Bar("demo: points of accuracy", demo["accuracy_difference_points"], MOST_POINTS),
        ]
    return found


def report_stages(stages: dict[str, float]) -> str:
    return (
        "stages, ms for a million parameters, one thread\n"
        f"  quantise {stages['quantise']:.2f}   hash {stages['hash']:.2f}   "
        f"decode the sum {stages['decode']:.2f}\n"
        f"  a mask: keystream {stages['keystream']:.3f}, add {stages['add']:.3f}, together "
        f"{stages['mask_add']:.3f}; taken off again {stages['unmask']:.3f}\n"
        f"  plain AES-128-CTR: in one call {stages['aes']:.3f}, in chunks "
        f"{stages['keystream']:.3f}; mask + add / AES {stages['mask_add_over_aes']:.2f}"
    )


def report_flower(figures: dict[str, Any], size: Sizes) -> str:
    rows = [
        f"{size.members} members, {size.dropouts} dropouts, {size.parameters:,} parameters; flwr "
        f"{secagg_flower.VERSION}\n  {'':10}{'client':>12}{'server':>12}{'sent by a client':>22}"
    ]
    for name in OURS_THEIRS:
        found = figures[name]
        rows.append(
            f"  {name:10}{1e3 * found['client_cpu_s']:>9.1f} ms{1e3 * found['server_cpu_s']:>9.1f} ms"
            f"{found['bytes_up']:>16,.0f} bytes"
        )
        stages = "  ".join(f"{key} {1e3 * s:.1f}" for key, s in found["stages"].items())
        rows.append(f"    of which ms: {stages}")
    rows.append(
        f"  faster: client {figures['client_speedup']:.1f} x (without the journal "
        f"{figures['client_speedup_without_journal']:.1f} x), server "
        f"{figures['server_speedup']:.1f} x; bytes x {figures['bytes_ratio']:.3f}"
    )
    return "\n".join(rows)


HEAD = (
    f"{'members':>8}{'dropouts':>9}{'parameters':>12}{'client':>11}{'server':>11}"
    f"{'client peak':>14}{'server peak':>14}"
)


def report_cell(cell: dict[str, Any]) -> str:
    start = f"{cell['members']:>8}{cell['dropouts']:>9}{cell['parameters']:>12,}"
    if "refused" in cell:
        return f"{start}{'refused':>11}"
    return (
        f"{start}{cell['client_cpu_s']:>9.3f} s{cell['server_cpu_s']:>9.3f} s"
        f"{cell['client_peak_vectors']:>10.2f} vec{cell['server_peak_vectors']:>10.2f} vec"
    )


def report_large(figures: dict[str, Any], size: Sizes) -> str:
    stages = "  ".join(f"{key} {s:.3f}" for key, s in figures["stages"].items())
    return (
        f"{LARGE_MEMBERS} members, {LARGE_DROPOUTS} dropout, {size.large_parameters:,} parameters\n"
        f"  client {figures['client_cpu_s']:.3f} s of CPU, {figures['client_peak_vectors']:.2f} "
        f"vectors beyond the update; {figures['bytes_up']:,.0f} bytes sent\n"
        f"  of which the journal's files {figures['journal_share']:.0%} of the CPU time "
        f"({figures['journal_wall_s']:.3f} s by the clock)\n"
        f"  server {figures['server_cpu_s']:.3f} s, {figures['server_peak_vectors']:.2f} vectors\n"
        f"  of which seconds: {stages}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="of each pair of runs (default: 7)")
    parser.add_argument(
        "--quick", action="store_true", help="table: up to 10 members, 1M parameters; no large"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="everything but the demo once, with few parameters: no figures, only whether it works",
    )
    parser.add_argument("--demo", action="store_true", help="run the demo job and nothing else")
    parser.add_argument("--folder", type=Path, help="for journals, on a real disk [system's]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}

    def say(text: str) -> None:
        if not arguments.json:
            print(text, flush=True)

    if arguments.demo:
        figures["demo"] = secagg_demo.measure(arguments.repeats)
        say(secagg_demo.report(figures["demo"]))
    else:
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="umbel-secagg-") as name:
            repeats = 1 if arguments.smoke else arguments.repeats
            size = SMOKE if arguments.smoke else Sizes()
            _measure(figures, repeats, arguments.quick, size, Path(name), say)
    judged = [] if arguments.smoke else bars(figures)
    say("bars\n" + "\n".join(str(bar) for bar in judged))
    if arguments.json:
        print(json.dumps(figures | {"bars": [asdict(bar) | {"held": bar.held} for bar in judged]}))
    return int(arguments.check and not all(bar.held for bar in judged))


def _measure(
    figures: dict[str, Any], repeats: int, quick: bool, size: Sizes, folder: Path, say: Any
) -> None:
    """Everything but the demo; each part is printed when it is done."""
    figures["stages"] = secagg_stages.measure(repeats, size.parameters, size.turns)
    say(report_stages(figures["stages"]))
    figures["flower"] = compare(repeats, size, folder)
    say(report_flower(figures["flower"], size))
    say(HEAD)
    figures["table"] = []
    for case in size.cells or cells(quick):
        figures["table"].append(measure_cell(*case, folder))
        say(report_cell(figures["table"][-1]))
    if not quick:
        figures["large"] = measure_large(repeats, size, folder)
        say(report_large(figures["large"], size))


if __name__ == "__main__":
    sys.exit(main())
