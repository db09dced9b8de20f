"""Who takes part in a run between machines, and how it turns to another roster between two rounds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flwr.serverapp import Grid

from ..certificate.form import CertifiedRoster
from ..consortium.authority import Consortium
from ..errors import CannotGoOn, PlanRefused
from ..job import Job
from ..planning.encryption import roster_refusals, server_sees
from ..planning.plan import Plan, UnderWay, strategy_of
from ..planning.refusals import refused
from ..planning.terms import Terms
from ..planning.vector import further_of
from ..run.events import Turned
from ..run.run_folder import RunFolder
from ..strategies import channels_over
from ..wire.arrays import Arrays
from ..wire.requests import EVALUATE, SECOND, TRAIN, Readiness
from .muster import Muster, Order, Tell, ask_to_join, muster
from .rosters import Period, RosterChanged, Rosters
from .run import Run
from .sums import SecureSums

if TYPE_CHECKING:
    from ..learning.model import ModelShape

_CLIENTS = "clients.json"
_ANEW = "Start a new run with the present members."


@dataclass
class Company:
    """The clients of a run, now and before, and the plan that follows from them."""

    folder: RunFolder
    consortium: Consortium
    rosters: Rosters
    shape: ModelShape
    clients: Muster
    """All clients that ever took part, with what they stated when they joined."""
    _considered: tuple[Period, str] | None = field(default=None, init=False)
    """A roster that waits, and why those that remain could not go on under it."""

    @classmethod
    def gather(
        cls,
        folder: RunFolder,
        consortium: Consortium,
        shape: ModelShape,
        grid: Grid,
        nodes: dict[str, int],
        should_stop: Callable[[], bool],
        tell: Tell,
        heads: Mapping[str, str],
    ) -> Company:
        """Those that take part: asked when the run begins, and the same ones when it goes on.

        `nodes` are those of the members of the newest roster, `heads` what they last sent of their ledgers.
        """
        identity, rosters = folder.read_json("run.json"), Rosters(folder, consortium)
        if (folder.path / _CLIENTS).exists():
            found = Muster.from_json(folder.read_json(_CLIENTS), nodes)
        else:
            _check_clip(folder.job, shape, consortium, len(rosters.roster.members))
            order, grace = _order(folder, rosters, heads, shape), identity.get("grace")
            wait = identity["wait"]
            found = muster(grid, order, nodes, wait, tell, should_stop, grace=grace)
            if not should_stop():
                folder.write_json(_CLIENTS, found.to_json())
            found.nodes = {name: nodes[name] for name in found.ready}
        if not rosters.periods and not should_stop():
            # Some may have left since they were asked, if another process asked them.
            rosters.begin([name for name in found.ready if name in rosters.roster.by_name])
        company = cls(folder, consortium, rosters, shape, found)
        if rosters.periods and rosters.last.joining:
            company._let_join(grid, nodes, identity, should_stop, tell, heads)
        return company

    @property
    def nodes(self) -> dict[str, int]:
        """Nodes of those that may be asked now."""
        return {n: node for n, node in self.clients.nodes.items() if n in self.rosters.last.clients}

    def plan(self, period: Period | None = None) -> Plan:
        """The plan under a roster, the present one by default: all of its numbers are computed again.

        Tests and noise of those that go on stay what they were. Raises ``PlanRefused``.
        """
        rosters, job = self.rosters, self.folder.job
        first = period is None and len(rosters.periods) == 1
        period = period or rosters.last
        facts = {client.name: client for client in self.clients.facts}
        here = [facts[name] for name in period.clients if name in facts]
        under_way = None
        if not first:
            left = [client for name, client in facts.items() if name not in period.clients]
            tests = self.folder.read_json("plan.json")["tests"]
            under_way = UnderWay(tests, rosters.participations(job), left)
        members = rosters.members_of(period)
        _check_clip(job, self.shape, self.consortium, members)
        return Plan.compile(
            job, here, self.shape, members, under_way=under_way, virtual=rosters.virtual
        )

    def take_up(self, grid: Grid, initial: Arrays) -> Run:
        """The run under its present roster, as its last checkpoint left it; `initial` is its first model."""
        folder, plan, rosters = self.folder, self.plan(), self.rosters
        if len(rosters.periods) > 1 or not (folder.path / "plan.json").exists():
            folder.write_json("plan.json", plan.to_dict())
        identity, job = folder.read_json("run.json"), plan.job
        strategy = strategy_of(plan)
        run = Run(identity["id"], plan, grid, strategy, folder, initial)
        run.nodes, run.signature, run.patience = self.nodes, identity["signature"], identity["wait"]
        run.renew = lambda failed: self.renew(run, failed)
        run.roster_waits = lambda: self._leaves(run, False)
        run.replayable = bool(identity["reproducible"])
        if job.encrypted:
            run.roster, run.sums = rosters.signed, SecureSums(rosters.roster)
        run.restore()
        return run

    def renew(self, run: Run, failed: bool) -> None:
        """Turn to the newest roster if it says something else of this run's clients, or holds for longer.

        Raises ``RosterChanged``, after which another process leads the run and brings its clients the
        roster; ``CannotGoOn`` if too few are left under it. A round that an earlier process left open is
        finished first, unless it `failed`.
        """
        if not self._leaves(run, failed):
            return
        turn = self.rosters.pending(run.plan.job.cohort.joins)
        if turn is None:
            raise RosterChanged  # the present roster was prolonged
        gone = self._gone(turn)
        if reason := self._too_few(turn):
            raise CannotGoOn(
                f"{', '.join(gone)} left the consortium, or has new keys{reason}", _ANEW
            )
        first = run.round + 1
        self.rosters.turn(turn, first)
        run.tell(Turned(first, turn.epoch, gone))
        raise RosterChanged

    def _leaves(self, run: Run, failed: bool) -> bool:
        """Whether ``renew`` leaves, by raising."""
        if not failed and _in_a_slot(run):
            return False
        turn = self.rosters.pending(run.plan.job.cohort.joins)
        if turn is None:
            return run.sums is not None and run.roster != self.rosters.signed
        # Who was admitted since may ask too much of those that are here: then none joins.
        return bool(self._gone(turn)) or not self._too_few(turn)

    def _gone(self, turn: Period) -> list[str]:
        """Who takes part now, and could not after a turn."""
        return sorted(set(self.rosters.last.clients) - set(turn.clients))

    def _too_few(self, turn: Period) -> str:
        """Why those that remain cannot go on under another roster; nothing if they can.

        It takes a plan, so it is asked once of each roster, and said once if nobody left.
        """
        if self._considered is None or self._considered[0] != turn:
            reason = self._why_too_few(turn)
            self._considered = turn, reason
            if reason and not self._gone(turn):
                logging.getLogger(__name__).warning("nobody joins%s", reason)
        return self._considered[1]

    def _why_too_few(self, turn: Period) -> str:
        try:
            plan = self.plan(turn)
        except PlanRefused as error:
            return f". {error}"
        if len(turn.clients) >= plan.minimum:
            return ""
        return f": {len(turn.clients)} clients are left, but {plan.minimum} are needed."

    def statement(self) -> list[dict[str, Any]]:
        """The rosters that the run went by, for its certificate."""
        consortium, job = self.consortium.card.id, self.folder.job
        further = further_of(job, self.shape.trained)
        found = []
        for period in self.rosters.periods:
            roster = self.rosters.of(period)
            members, clients = len(roster.members), len(period.clients)
            terms = Terms(job, members)
            sees = server_sees(terms, terms.cohort_size(clients), further)
            found.append(
                CertifiedRoster.of(roster, consortium).model_dump()
                | {
                    "first": period.first,
                    "members": members,
                    "clients": clients,
                    "server_sees": sees,
                }
            )
        return found

    def _let_join(
        self,
        grid: Grid,
        nodes: dict[str, int],
        identity: Mapping[str, Any],
        should_stop: Callable[[], bool],
        tell: Tell,
        heads: Mapping[str, str],
    ) -> None:
        """Ask new members whether they take part; those with whom there is no plan are left out."""
        order = _order(self.folder, self.rosters, heads, self.shape)
        asked = {name: nodes[name] for name in self.rosters.last.asked if name in nodes}
        seconds = identity.get("grace", identity["wait"])
        found = ask_to_join(grid, order, asked, seconds, tell, should_stop)
        if should_stop():
            return
        taken = []
        for name, readiness in sorted(found.ready.items()):
            if reason := self._refusal(name, readiness):
                tell(name, f"does not join: {reason}")
                continue
            self.clients.ready[name] = readiness
            self.clients.nodes[name] = nodes[name]
            taken.append(name)
        self.folder.write_json(_CLIENTS, self.clients.to_json())
        self.rosters.joined(taken)

    def _refusal(self, name: str, readiness: Readiness) -> str:
        """Why a member that is ready cannot join; nothing if it can."""
        if readiness.base_model != self.shape.base_digest:
            return "it has another base model"
        if readiness.fixed != self.shape.fixed_digest:
            return "it holds other fixed adapter tensors"
        before = self.clients.ready.get(name)
        told = (readiness.size, readiness.training_share, readiness.holds_out)
        if before and told != (before.size, before.training_share, before.holds_out):
            return "it took part before, with another size of its data"
        last = self.rosters.last
        period = replace(last, clients=sorted({*last.clients, name}))
        ready = {**self.clients.ready, name: readiness}
        try:
            replace(self, clients=Muster(self.clients.nodes, ready)).plan(period)
        except PlanRefused as error:
            return str(error)
        return ""


def _check_clip(job: Job, shape: ModelShape, consortium: Consortium, members: int) -> None:
    """Refuse what every member would, before any of them is asked, and charges its published size."""
    if job.encrypted:
        terms = Terms(job, members)
        for channels, _ in channels_over(job.strategy, shape.trained, job.training.rounds):
            clip = terms.clip(channels.parameters)
            if reasons := roster_refusals(clip, consortium.limits):
                raise refused(reasons)


def took_part(folder: RunFolder) -> set[str]:
    """Names of everybody who ever took part in a run."""
    path = folder.path / _CLIENTS
    return set(folder.read_json(_CLIENTS)) if path.exists() else set()


def _order(
    folder: RunFolder, rosters: Rosters, heads: Mapping[str, str], shape: ModelShape
) -> Order:
    identity = folder.read_json("run.json")
    job, signature = folder.job, identity["signature"]
    run, fixed = identity["id"], shape.fixed_digest
    return Order(run, job, signature, lambda: rosters.signed, heads, fixed)


def _in_a_slot(run: Run) -> bool:
    """Whether an earlier process left the coming round, or the last test, in the middle of its sum."""
    if run.sums is None:
        return False
    coming = any(run.sums.is_open(kind, run.round + 1) for kind in (TRAIN, SECOND))
    return coming or run.sums.is_open(EVALUATE, run.round)
