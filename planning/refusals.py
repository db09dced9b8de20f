"""What a job can ask for that no plan has, and what no agent takes part in either.

Plan and agents call the same functions, so a job that an agent would refuse for its numbers is refused
before anybody is asked, and an owner takes no plan on trust. Beside what follows from the job alone, here:

- from the published size: ``noise.check_delta``, ``private_recipe``, ``event_of_test``;
- from the loaded model: ``padding.padding_refusals``, ``learning.probing.received`` (of its first weights by
  the probe, of all others in each round);
- from the sum that it is asked into: ``encryption.grid_refusals``, ``roster_refusals``,
  ``client_level.norm_refusals``, ``count_refusals``;
- from the planned rounds and tests: ``schedule.rounds_tested``.

`tests/server/test_plan_and_agents.py` tries jobs that nobody wrote by hand. What depends on an owner's own
policy, declaration or ledger is that owner's affair (``client.policy``, ``client.settings``,
``client.budget``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import PlanRefused
from ..job import Job
from ..privacy.noise.sizes import SIZE_EPSILON
from ..strategies import buffered
from .buffered import buffer_refusals
from .centring import centring_refusals
from .client_level import client_refusals, sum_refusals
from .comparing import comparing_refusals
from .encryption import encryption_refusals
from .evaluation import evaluation_refusals, release_refusals
from .facts import ClientFacts, some
from .losses import loss_refusals
from .noise import delta_fits, delta_refusal, step_refusals
from .padding import padding_refusals
from .terms import Terms

if TYPE_CHECKING:
    from ..learning.model import ModelShape


def refused(reasons: Sequence[str]) -> PlanRefused:
    """All reasons in one sentence."""
    return PlanRefused(f"This job is refused: {' · '.join(reasons)}")


def job_refusals(job: Job, accepted: Collection[str] = ()) -> list[str]:
    """Every reason that follows from the job alone. `accepted`: strategies whose own code may be loaded."""
    return [
        *step_refusals(job),
        *centring_refusals(job),
        *_mechanism_refusals(job),
        *_budget_refusals(job),
        *release_refusals(job),
        *sum_refusals(job),
        *_strategy_refusals(job, accepted),
    ]


def deployment_refusals(job: Job) -> Iterator[str]:
    """Why a job runs in simulations alone: the operator does not sign it, and no owner takes part."""
    if job.simulation.attackers:
        yield (
            "simulation.attackers applies only to umbel simulate: remove it from a job that runs between "
            "machines"
        )
    waits = buffered(job.strategy) is not None and job.encrypted
    if waits and job.counts == "exact" and job.evaluation.every != 0:
        yield (
            f'strategy.name = "{job.strategy.name}" with evaluation.counts = "exact": between machines the '
            "exact counts of a test would take the place of updates that wait for a sum. Set "
            'evaluation.every = 0 (tests before training and at the end), or evaluation.counts = "private" '
            'or "off"'
        )


def plan_refusals(
    terms: Terms,
    facts: Sequence[ClientFacts],
    model: ModelShape,
    tests: int,
    *,
    begun: bool,
    virtual: bool = True,
) -> list[str]:
    """Every reason why this job cannot be right with these clients; `begun`: it runs already.

    virtual: as ``Plan.compile`` has it. Raises ``StrategyError`` for a strategy that cannot be built.
    """
    job = terms.job
    _check_strategy(job)
    return [
        *_model_refusals(model),
        *_adapter_refusals(job),
        *_rank_refusals(job),
        *_company_refusals(job, len(facts), begun=begun),
        *job_refusals(job),
        *(_strategy_refusals(job, None) if ":" in job.strategy.name else ()),
        *(_private_refusals(job, facts) if job.private else []),
        *(client_refusals(terms, facts, model, tests) if job.per_client else []),
        *padding_refusals(job, model.verdict),
        *evaluation_refusals(job, facts, tests),
        *buffer_refusals(job, [client.name for client in facts], virtual=virtual),
        *encryption_refusals(terms, facts, model, tests),
        *comparing_refusals(terms, facts),
    ]


def _check_strategy(job: Job) -> None:
    """Raise ``StrategyError`` for a strategy that nobody knows, or with options that it does not have."""
    from ..strategies import build_strategy

    build_strategy(job.strategy, total_weight=1)  # what weights there are makes no difference here


def _strategy_refusals(job: Job, accepted: Collection[str] | None) -> Iterator[str]:
    """What a strategy cannot be right with; of a user's own, only if its code is `accepted`."""
    from ..strategies import keeps_state, refusals

    yield from refusals(job, accepted)
    yield from loss_refusals(job, accepted)
    if job.encrypted and not job.encryption.confirm and keeps_state(job.strategy, accepted):
        yield (
            "encryption.confirm = false does not show an owner that its update was counted, but "
            f"strategy.name = {job.strategy.name!r} keeps a state at each owner that must follow the "
            "counted updates: set encryption.confirm = true, or choose a strategy without a state"
        )


def _model_refusals(model: ModelShape) -> Iterator[str]:
    if not model.trained:
        yield "nothing would be trained: model.lora.target leaves no tensor"


def _adapter_refusals(job: Job) -> Iterator[str]:
    """A strategy for other adapters than the job's."""
    from ..strategies import rule_class

    kind = rule_class(job.strategy)
    if kind is None or job.adapter in kind.fits:
        return
    fits = " or ".join(f'"{adapter}"' for adapter in kind.fits)
    yield (
        f'strategy.name = "{job.strategy.name}" needs model.adapter = {fits}, and the job has '
        f'"{job.adapter}": take strategy.name = "{nearest(job)}", which fits it, or another adapter'
    )


def _rank_refusals(job: Job) -> Iterator[str]:
    """Different ranks of virtual clients, with a strategy that cannot take them."""
    from ..strategies import rule_class

    ranks = job.simulation.ranks or []
    if not ranks:
        return
    kind = rule_class(job.strategy)
    if kind is None or not kind.ranked:
        yield (
            f'simulation.ranks: strategy.name = "{job.strategy.name}" adds up factors of one rank; take '
            'strategy.name = "flexlora", which takes products of any ranks, or leave out the ranks'
        )
    elif max(ranks) > job.rank:
        yield (
            f"simulation.ranks has {max(ranks)}, which is above model.lora.rank = {job.rank}: raise that"
        )


def nearest(job: Job) -> str:
    """The strategy of Umbel's own that does what the job's does, as far as its adapter allows."""
    from ..strategies import OURS, ours, rule_class

    kind = rule_class(job.strategy)
    parents = kind.__mro__[1:] if kind else ()
    named = {ours(name): name for name in OURS}
    fitting = (named[k] for k in parents if k in named and job.adapter in k.fits)
    return next(fitting, "fedavg")


def _company_refusals(job: Job, clients: int, *, begun: bool) -> Iterator[str]:
    """More clients in a round than there are."""
    if job.cohort.size and job.cohort.size > clients and not begun:
        yield f"cohort.size is {job.cohort.size}, but there are only {clients} clients"
    if job.cohort.minimum and job.cohort.minimum > clients:
        yield f"cohort.minimum is {job.cohort.minimum}, but there are only {clients} clients"


def _private_refusals(job: Job, facts: Sequence[ClientFacts]) -> Iterator[str]:
    """What the clients' public numbers forbid a private job."""
    if job.per_group and job.data.group_column is None:
        yield (
            'privacy.unit = "group" without data.group_column: nothing says which records belong to '
            "one person; name the column that does"
        )
    small = [client.name for client in facts if not delta_fits(job, client.size)]
    if small:
        yield delta_refusal(job, some(small))


def _mechanism_refusals(job: Job) -> Iterator[str]:
    """Keys of client-level privacy in a job of another unit, which would do nothing there."""
    if not job.private or job.per_client:
        return
    if job.cohort.participations is not None and buffered(job.strategy) is None:
        yield (
            'cohort.participations applies only to privacy.unit = "client"; under '
            f"{job.privacy.unit}-level privacy each client's own noise is made for the rounds that "
            "it is planned in"
        )
    if job.privacy.mechanism == "central" or job.privacy.clipping == "adaptive":
        yield (
            'privacy.mechanism = "central" and privacy.clipping = "adaptive" apply only to '
            f'privacy.unit = "client"; under {job.privacy.unit}-level privacy every owner adds its '
            "own noise to gradients clipped to a fixed norm"
        )


def _budget_refusals(job: Job) -> Iterator[str]:
    """What leaves nothing of the epsilon for training."""
    spent = SIZE_EPSILON if job.noised_locally else 0.0
    if job.noised_locally and job.privacy.epsilon <= spent:
        yield (
            f"privacy.epsilon = {job.privacy.epsilon:g}: the published sizes of the data, from which "
            f"noise and sampling are chosen, cost {SIZE_EPSILON:g} of it; raise it"
        )
    elif job.tests_privately and job.tests_epsilon + spent >= job.privacy.epsilon:
        beside = f" beside {spent:g} for the published sizes" if spent else ""
        if job.evaluation.epsilon is not None:
            yield (
                f"evaluation.epsilon = {job.tests_epsilon:g} leaves nothing of privacy.epsilon = "
                f"{job.privacy.epsilon:g} for training{beside}: lower evaluation.epsilon"
            )
        else:
            yield (
                f"privacy.epsilon = {job.privacy.epsilon:g} leaves nothing for training: tests take a "
                f"quarter of it ({job.tests_epsilon:g}, as evaluation.epsilon is not set){beside}; raise "
                'it, or set evaluation.counts = "off"'
            )
