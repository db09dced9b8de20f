"""What attackers cost, and what each rule against them saves: accuracy beside that of a mean."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kept import Kept
from questions import MODEL, questions_job
from strategies_report import PAGE, markdown, replace_table

from umbel.job.attacks import ATTACKS

RESULTS = Path(__file__).resolve().parent / "results" / "defences.json"
MEMBERS = 40
MOST_LOST = 2.0
"""Points of accuracy that the best rule may lose under an attack."""
BOOSTS = {"sign-flip": 10.0, "ipm": 10.0}
"""Of attacks that are boosted otherwise than by default."""
ROBUST = ("median", "trimmed-mean", "geometric-median", "krum", "multi-krum", "bulyan")
BOUNDED = ("centred-clipping", "norm-bound")


@dataclass(frozen=True)
class Sight:
    """What the server sees."""

    share: float
    """Of attackers, at which the bar stands."""
    shares: Sequence[float]
    """At which rules are tried to see when they break."""
    settings: dict[str, Any]
    rules: Sequence[str]
    """Which hold against the share of the bar by the plan."""


CASES = {
    "clear": Sight(
        0.2,
        (0.05, 0.1, 0.2, 0.3, 0.4),
        {"encryption.mode": "none", "simulation.encryption_required": False},
        (*ROBUST, *BOUNDED),
    ),
    "groups": Sight(
        0.05,
        (0.05, 0.1, 0.2),
        {"encryption.group_size": 4, "encryption.colluders": 0.05},
        (*(rule for rule in ROBUST if rule != "bulyan"), *BOUNDED),
    ),
}
WORST = ("ipm", "sign-flip", "model-replacement", "label-flip")
"""Attacks that hurt most, with which rules are broken."""

ABOUT = f"""\
TREC questions, six classes, {MEMBERS} members with an even part each, a linear head on frozen features, no
privacy; tested on the official 500 questions.

  clear    20 % attackers; the rules compare single updates
  groups   5 % attackers; encrypted, the rules compare the means of groups of four

With --breaking: at shares from 5 % on, the most points that a rule loses to one of --attacks
({", ".join(WORST)}), told the true share; where its plan refuses the share nothing is run.

Each attack is met by a mean (fedavg) and by the rules, beside the same mean without attackers. Signs are
flipped ten times as far, and inner products turned by ten means, so that few attackers outweigh the rest;
other attacks are as their papers have them. Points are of accuracy, lost against the honest mean. Figures
are kept in --results and not measured again: the same command goes on after a stop.

Bar: under each attack the best rule loses at most {MOST_LOST} points.
"""


def settings(
    strategy: str, case: str, share: float, attack: str | None, smoke: bool
) -> dict[str, Any]:
    """The job of a run, but for where files lie."""
    values: dict[str, Any] = {
        "model.base": MODEL,
        "model.adapter": "head",
        "privacy.unit": "none",
        "training.rounds": 1 if smoke else 15,
        "training.local_steps": 2 if smoke else 10,
        "training.batch_size": 64,
        "training.optimizer": "sgd",
        "training.learning_rate": 1.0,
        "strategy.name": strategy,
        "strategy.weighting": "equal",
        "evaluation.every": 0,
        "simulation.partition": "iid",
        "simulation.clients": MEMBERS,
        **CASES[case].settings,
    }
    if strategy != "fedavg":
        values["strategy.options.attackers"] = share
    if attack:
        values |= {"simulation.attackers": share, "simulation.attack": attack}
        values |= {"simulation.attack_boost": BOOSTS[attack]} if attack in BOOSTS else {}
    if smoke:
        values["data.limit"] = 400
    return values


def accuracy(values: dict[str, Any]) -> float | None:
    """Of the last model of a run, on all test records; None if the plan refuses so many attackers."""
    from umbel.errors import PlanRefused
    from umbel.simulations.engine import Options, simulate

    with tempfile.TemporaryDirectory(prefix="umbel-defences-") as folder:
        options = Options(Path(folder) / "run", workers=1, reproducible=True)
        try:
            run = simulate(questions_job(values), options)
        except PlanRefused as error:
            if "strategy.options.attackers" not in str(error):
                raise
            return None
        return float(run.read_json("result.json")["metrics"]["accuracy"])


class Losses:
    """Points of accuracy lost, measured as they are asked for."""

    def __init__(self, kept: Kept, *, smoke: bool, only_kept: bool) -> None:
        self._kept, self._smoke, self._only_kept = kept, smoke, only_kept

    def runs(self, strategy: str, case: str, share: float, attack: str) -> bool:
        """Whether there is a figure, or one may be measured."""
        return not self._only_kept or self._kept.has(
            settings(strategy, case, share, attack, self._smoke)
        )

    def honest(self, case: str) -> float:
        """The mean's accuracy without attackers."""
        found = self._accuracy("fedavg", case, 0.0, None)
        assert found is not None
        return found

    def lost(self, strategy: str, case: str, share: float, attack: str) -> float | None:
        """Against the honest mean; None if the plan refuses so many attackers."""
        found = self._accuracy(strategy, case, share, attack)
        return None if found is None else 100 * (self.honest(case) - found)

    def _accuracy(self, strategy: str, case: str, share: float, attack: str | None) -> float | None:
        values = settings(strategy, case, share, attack, self._smoke)
        found: float | None = self._kept.figures(values, lambda: {"accuracy": accuracy(values)})[
            "accuracy"
        ]
        return found


def measured(
    cases: Sequence[str], attacks: Sequence[str], rules: Sequence[str], losses: Losses
) -> Iterator[dict[str, Any]]:
    """One row for each case and attack: points lost by the mean, and by each rule."""
    for case in cases:
        share, known = CASES[case].share, CASES[case].rules
        tried = ["fedavg", *(rule for rule in known if not rules or rule in rules)]
        for attack in attacks:
            yield {
                "case": case,
                "attackers": share,
                "attack": attack,
                "honest": losses.honest(case),
                "lost": {name: losses.lost(name, case, share, attack) for name in tried},
            }


def broken(
    cases: Sequence[str], attacks: Sequence[str], rules: Sequence[str], losses: Losses
) -> Iterator[dict[str, Any]]:
    """One row for each case and share: the most points that each rule loses, and to which attack."""
    for case in cases:
        known = ("fedavg", *ROBUST, *BOUNDED)
        for share in CASES[case].shares:
            worst = {}
            for name in (rule for rule in known if not rules or rule in rules):
                tried = [one for one in attacks if losses.runs(name, case, share, one)]
                each = [(losses.lost(name, case, share, one), one) for one in tried]
                worst[name] = worst_of(each)
            yield {
                "case": case,
                "attackers": share,
                "spoilt": spoilt(case, share),
                "worst": worst,
            }


def worst_of(each: Sequence[tuple[float | None, str]]) -> dict[str, Any]:
    """The most points lost, and to which attack; of a plan that refuses, and of no figures, words."""
    lost = [(points, attack) for points, attack in each if points is not None]
    if not lost:
        return {"points": None, "attack": "refused" if each else "-"}
    points, attack = max(lost)
    return {"points": points, "attack": attack}


def spoilt(case: str, share: float) -> float:
    """The share of vectors that attackers are expected to spoil."""
    from umbel.planning.comparing import spoiled

    size = CASES[case].settings.get("encryption.group_size", 1)
    return spoiled([size] * (MEMBERS // size), share)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of one case as Markdown: a line per rule, a column per share; attacks by name if there are several."""
    found = [worst for row in rows for worst in row["worst"].values()]
    several = len({worst["attack"] for worst in found if worst["points"] is not None}) > 1

    def cell(worst: dict[str, Any]) -> str:
        points, attack = worst["points"], worst["attack"]
        if points is None:
            return str(attack)
        return f"{points:.1f} ({attack})" if several else f"{points:.1f}"

    shares = [f"{row['attackers']:.0%}" for row in rows]
    if rows[0]["case"] == "groups":
        shares = [
            f"{one} ({row['spoilt']:.0%} of groups)" for one, row in zip(shares, rows, strict=True)
        ]
    return markdown(
        ["rule", *shares],
        ([f"`{name}`", *(cell(row["worst"][name]) for row in rows)] for name in rows[0]["worst"]),
    )


def best(row: dict[str, Any]) -> tuple[float, str]:
    """The fewest points lost by a rule, and which."""
    return min((points, name) for name, points in row["lost"].items() if name != "fedavg")


def line(row: dict[str, Any]) -> str:
    rest = "  ".join(f"{n} {p:.1f}" for n, p in row["lost"].items() if n != "fedavg")
    return (
        f"{row['case']:7}{row['attackers']:4.0%}  {row['attack']:18} honest {row['honest']:.4f}, lost: "
        f"fedavg {row['lost']['fedavg']:.1f} | {rest}"
    )


def show_breaking(rows: Sequence[dict[str, Any]], page: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"breaking": rows}, indent=2))
    for case in dict.fromkeys(row["case"] for row in rows):
        lines = table([row for row in rows if row["case"] == case])
        if not as_json:
            print(*lines, "", sep="\n")
        if page:
            replace_table(PAGE, f"breaking, {case}", lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)} [all]")
    parser.add_argument(
        "--attacks", nargs="+", choices=ATTACKS, help="[all; with --breaking those that hurt most]"
    )
    parser.add_argument("--rules", nargs="+", default=[], help="of the rules of a case [all]")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FILE", help="keep figures there"
    )
    parser.add_argument(
        "--only-kept", action="store_true", help="with --breaking: show what is kept, run nothing"
    )
    parser.add_argument("--breaking", action="store_true", help="at growing shares, without a bar")
    parser.add_argument(
        "--page", action="store_true", help=f"with --breaking: renew its tables in docs/{PAGE.name}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--smoke", action="store_true", help="few records, one round, no bars")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"{', '.join(sorted(unknown))}: the cases are {', '.join(CASES)}")
    if options.breaking and options.check:
        parser.error("--breaking has no bar that --check could hold it against")
    cases, rules = options.cases or list(CASES), options.rules
    attacks = options.attacks or (WORST if options.breaking else list(ATTACKS))
    if options.smoke:
        cases, attacks, rules = cases[:1], ["alie"], rules or ["median"]
    losses = Losses(
        Kept(None if options.smoke else options.results),
        smoke=options.smoke,
        only_kept=options.only_kept,
    )
    if options.breaking:
        show_breaking(list(broken(cases, attacks, rules, losses)), options.page, options.json)
        return
    rows = []
    for row in measured(cases, attacks, rules, losses):
        rows.append(row)
        print(line(row), file=sys.stderr, flush=True)
    missed = [
        f"{row['case']}, {row['attack']}: {name} loses {points:.1f} points"
        for row in rows
        for points, name in [best(row)]
        if points > MOST_LOST
    ]
    if options.json:
        print(json.dumps({"rows": rows, "missed": missed}, indent=2))
    if options.check and missed and not options.smoke:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
