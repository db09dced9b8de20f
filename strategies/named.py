"""Strategies by the name in a job: what they declare, and the objects and classes behind the names.

Umbel's own stand in ``OURS``. Another name is a class of ``flwr.serverapp.strategy`` or ``module:Class``,
whose code is loaded only if the caller accepts the name.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MessageError, PlanRefused, StrategyError
from ..wire.arrays import Arrays
from .catalogue import NAMES, OURS, ours
from .construct import construct, foreign, own_rule
from .contract import (
    APART,
    UPDATE,
    Channel,
    Channels,
    LocalRule,
    Rule,
    Shapes,
    checked_channels,
    has_personal,
    trained_shapes,
)
from .second import NOTHING_OF_ITS_OWN, reaches_told, second_channels

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

    from ..job import Job, StrategySpec, TrainingSpec
    from .fedbuff import FedBuff


def build_strategy(
    spec: StrategySpec,
    total_weight: int,
    training: TrainingSpec | None = None,
    clients: int = 0,
    clip: float = 1.0,
) -> Strategy:
    """The strategy of a job, as Flower has them. `total_weight` is what all clients weigh together.

    training: for a rule whose owners keep a state. clients, clip: as ``Rule`` has them. Raises
    ``StrategyError`` with the known names or options.
    """
    kind = _kind(spec)
    if not issubclass(kind, Rule):
        return foreign(kind, spec)
    from .compared import ComparedStrategy
    from .summed import SummedStrategy

    rule = _rule_of(kind, spec, clients, clip)
    owns = spec.name if ":" in spec.name and _runs_at_owners(kind) else ""
    adapter = SummedStrategy if rule.sees == "SUM" else ComparedStrategy
    return adapter(rule, total_weight, owns, training)


def sees(spec: StrategySpec) -> str:
    """What a job's strategy must see: as ``Rule.sees``; Flower's as ``foreign.ForeignStrategy`` says."""
    kind = _kind(spec)
    return kind.sees if issubclass(kind, Rule) else "GROUPS"


def compares(spec: StrategySpec) -> Rule | None:
    """The rule of a job's strategy if it compares updates; None for one of a sum, and for Flower's."""
    kind = _kind(spec)
    if not issubclass(kind, Rule):
        return None
    rule = _rule_of(kind, spec)
    return rule if rule.sees != "SUM" else None


def channels_of(
    spec: StrategySpec,
    shapes: Shapes,
    round_: int,
    accepted: Collection[str] | None = None,
    clients: int = 0,
) -> Channels:
    """What a round of this strategy adds up for a model of these tensors, with so many clients.

    accepted: names of strategies whose own code may be loaded; None: any. Of another, and of Flower's,
    it is the update alone, of all tensors. Raises ``StrategyError``.
    """
    rule = _rule(spec, accepted, clients)
    if rule is None:
        return Channels((Channel(UPDATE, shapes),), shapes)
    with _said_of(spec):
        return checked_channels(rule, trained_shapes(rule, round_, shapes))


def second_of(
    spec: StrategySpec,
    shapes: Shapes,
    round_: int,
    accepted: Collection[str] | None = None,
    clients: int = 0,
) -> tuple[Channels, Shapes] | None:
    """What the second sum of a round adds up, and what is sent for it; None with a strategy of one sum."""
    rule = _rule(spec, accepted, clients)
    if rule is None:
        return None
    with _said_of(spec):
        trained = trained_shapes(rule, round_, shapes)
        found = second_channels(rule, trained)
        return None if found is None else (found, rule.asks(trained))


def channels_over(
    spec: StrategySpec,
    shapes: Shapes,
    rounds: int,
    accepted: Collection[str] | None = None,
    clients: int = 0,
) -> list[tuple[Channels, int]]:
    """The different ones that the rounds 1 to `rounds` add up, and how many rounds add up each.

    Those of a round's second sum count as a further one of so many rounds.
    """
    rule = _rule(spec, accepted, clients)
    if rule is None:
        return [(Channels((Channel(UPDATE, shapes),), shapes), rounds)]
    with _said_of(spec):
        trained = (trained_shapes(rule, round_, shapes) for round_ in range(1, rounds + 1))
        many = Counter(tuple(names) for names in trained)
        found = []
        for names, count in many.items():
            some = {name: shapes[name] for name in names}
            second = second_channels(rule, some)
            found += [(checked_channels(rule, some), count)]
            found += [(second, count)] if second else []
        return found


def trained_over(
    spec: StrategySpec, shapes: Shapes, rounds: int, accepted: Collection[str] | None = None
) -> set[str]:
    """Names of the tensors that some round from 1 to `rounds` trains."""
    many = channels_over(spec, shapes, rounds, accepted)
    return {name for channels, _ in many for name in channels.trained}


def rule_class(spec: StrategySpec, accepted: Collection[str] | None = None) -> type[Rule] | None:
    """The class of this contract that a job names; None of Flower's, and of one that is not accepted."""
    kind = _kind(spec) if _knows(spec, accepted) else None
    return kind if kind is not None and issubclass(kind, Rule) else None


def _rule(
    spec: StrategySpec, accepted: Collection[str] | None, clients: int = 0, clip: float = 1.0
) -> Rule | None:
    """The rule of a job, with clients and clip as ``Rule`` has them; None as ``rule_class`` says."""
    kind = rule_class(spec, accepted)
    return None if kind is None else _rule_of(kind, spec, clients, clip)


def _rule_of(kind: type[Rule], spec: StrategySpec, clients: int = 0, clip: float = 1.0) -> Rule:
    found: Rule = construct(kind, dict(spec.options), spec)
    found.clients, found.clip = clients, clip
    return found


@contextlib.contextmanager
def _said_of(spec: StrategySpec) -> Iterator[None]:
    """What a declaration raises, with the strategy's name."""
    try:
        yield
    except (ValueError, LookupError) as error:
        raise StrategyError(f"strategy.name = {spec.name!r}: {error}") from None


def refusals(job: Job, accepted: Collection[str] | None = None) -> Iterator[str]:
    """Why a job cannot be right with its strategy. `accepted`: as for ``channels_of``."""
    kind, spec = rule_class(job.strategy, accepted), job.strategy
    if kind is None:
        return
    yield from kind.refusals(job)
    if kind.second is not Rule.second and keeps_state(spec, accepted):
        yield f"strategy.name = {spec.name!r}: {NOTHING_OF_ITS_OWN}"
    if kind.buffered and spec.name not in OURS:
        yield (
            f"strategy.name = {spec.name!r} declares `buffered`, and only Umbel's own rules can: agents "
            'compute the weights of such sums, and load no other code for it. Take "fedbuff", or rounds'
        )


def buffered(spec: StrategySpec) -> FedBuff | None:
    """The rule of a job whose sums are of whoever is ready; None for one with rounds.

    Only one of Umbel's own: agents ask, who load no other code.
    """
    found = own_rule(spec)
    return found if found is not None and found.buffered else None


def keeps_state(spec: StrategySpec, accepted: Collection[str] | None = None) -> bool:
    """Whether owners keep a state from round to round, whatever the model."""
    kind = rule_class(spec, accepted)
    return bool(kind and has_personal(kind)) or bool(state_of(spec, {"weight": (1,)}, accepted))


def state_of(spec: StrategySpec, shapes: Shapes, accepted: Collection[str] | None = None) -> Shapes:
    """What an owner keeps from round to round of a model of these tensors, personal ones among them.

    Nothing with most strategies. Of personal tensors it is how far they moved.
    """
    personal = personal_of(spec, shapes, accepted)
    shared = {name: shape for name, shape in shapes.items() if name not in personal}
    found = _declared(spec, accepted, lambda half: half.state(shared)) if shared else {}
    if both := sorted(found.keys() & personal.keys()):
        raise StrategyError(
            f"strategy.name = {spec.name!r}: it keeps a state and a personal tensor named {both[0]!r}"
        )
    kind = rule_class(spec, accepted)
    apart = shared if kind and kind.apart else {}
    return {**found, **personal, **{f"{APART}{name}": shape for name, shape in apart.items()}}


def personal_of(
    spec: StrategySpec, shapes: Shapes, accepted: Collection[str] | None = None
) -> Shapes:
    """Of a model with all these tensors, those that each owner trains for itself, and keeps."""
    kind = rule_class(spec, accepted)
    if kind is None:
        return {}
    with _said_of(spec):
        chosen = set(kind.personal(shapes))
        if unknown := sorted(chosen - shapes.keys()):
            raise ValueError(f"{unknown[0]!r} is personal, but the model does not have it")
    return {name: shape for name, shape in shapes.items() if name in chosen}


def heard_of(spec: StrategySpec, shapes: Shapes, accepted: Collection[str] | None = None) -> Shapes:
    """What goes out beside the model; nothing with most strategies."""
    return _declared(spec, accepted, lambda half: half.hears(shapes))


def _declared(
    spec: StrategySpec,
    accepted: Collection[str] | None,
    declared: Callable[[type[LocalRule]], Shapes],
) -> Shapes:
    kind = rule_class(spec, accepted)
    if kind is None or not kind.local:
        return {}
    with _said_of(spec):
        return declared(kind.local)


def told_by(
    spec: StrategySpec, round_: int, accepted: Collection[str] | None = None, clients: int = 0
) -> dict[str, Any]:
    """What a job's strategy tells the local half in a round of so many clients, by the job's own options."""
    from .averaging import PROXIMAL_MU

    rule = _rule(spec, accepted, clients)
    if rule is None:  # Flower's strategies of this kind have an option and tell it
        return {PROXIMAL_MU: spec.options.get("proximal_mu", 0.0)}
    with _said_of(spec):
        return dict(rule.told(round_))


def tells_reaches(spec: StrategySpec, accepted: Collection[str] | None = None) -> bool:
    """Whether the reaches of a round follow from the model, and are told with it (``Rule.scales``)."""
    kind = rule_class(spec, accepted)
    return kind is not None and kind.scales is not Rule.scales


def reaches_by(
    spec: StrategySpec,
    model: Arrays,
    round_: int,
    accepted: Collection[str] | None = None,
    clients: int = 0,
    clip: float = 1.0,
    asked: Arrays | None = None,
) -> dict[str, float]:
    """The reaches that a job's strategy tells for a round's first sum, of the model that is sent, by the
    names in a request; or, with what is `asked`, for its second sum. clients, clip: as ``Rule`` has them."""
    rule = _rule(spec, accepted, clients, clip)
    if rule is None:
        return {}
    with _said_of(spec):
        rule.told(round_)
        shapes = {name: array.shape for name, array in model.items()}
        trained = {name: model[name] for name in trained_shapes(rule, round_, shapes)}
        return reaches_told(rule.scales(trained, asked))


def local_half(
    spec: StrategySpec, told: Mapping[str, Any], wanted: str, accepted: Collection[str]
) -> LocalRule | None:
    """What an owner's agent runs in a round, of what the server `told`; None if it only trains.

    Guarantee: the code of a strategy that is not Umbel's is loaded only if the owner accepts that
    name. `wanted`: the strategy whose local half the server relies on, if it is not Umbel's. Raises
    ``PlanRefused`` if that may not or cannot run here, ``MessageError`` for what nobody should be told.
    """
    from .averaging import Proximal

    if wanted and wanted != spec.name:
        raise MessageError(
            f"The request is for the local half of {wanted!r:.100}, not for that of the job's strategy"
        )
    half: type[LocalRule] | None = Proximal  # Flower's own strategies tell it under the same name
    if _knows(spec, accepted):
        try:
            kind = _kind(spec)
        except StrategyError as error:
            raise PlanRefused(f"the strategy's local half does not load here: {error}") from None
        half = kind.local if issubclass(kind, Rule) else Proximal
    elif wanted:
        raise PlanRefused(
            f"the strategy {wanted} has a local half, which runs at an owner only if its policy names it: "
            f'jobs.strategies = ["{wanted}"]'
        )
    return _made(half, told, spec)


def _made(
    half: type[LocalRule] | None, told: Mapping[str, Any], spec: StrategySpec
) -> LocalRule | None:
    try:
        return None if half is None else half(dict(told))
    except (ValueError, LookupError, TypeError) as error:
        raise MessageError(f"What the server sent for {spec.name} is unusable: {error}") from None


def trains_apart(spec: StrategySpec, accepted: Collection[str] | None = None) -> bool:
    """Whether each owner trains a model of its own beside the shared one."""
    kind = rule_class(spec, accepted)
    return bool(kind and kind.apart)


def leaves_own_model(spec: StrategySpec, accepted: Collection[str] | None = None) -> bool:
    """Whether each owner ends with a model of its own: personal tensors, or one that it trained apart."""
    kind = rule_class(spec, accepted)
    return bool(kind and (has_personal(kind) or kind.apart))


def weighs_by_loss(spec: StrategySpec, accepted: Collection[str] | None = None) -> bool:
    """Whether what leaves follows from owners' losses, which are not noised."""
    kind = rule_class(spec, accepted)
    return bool(kind and kind.local and kind.local.needs_loss)


def apart_half(
    spec: StrategySpec, told: Mapping[str, Any], accepted: Collection[str]
) -> LocalRule | None:
    """The local half of the training of an owner's own model, made of what the server `told`; None if a
    strategy has none. Raises ``MessageError`` for what nobody should be told."""
    kind = rule_class(spec, accepted)
    return _made(kind.apart if kind else None, told, spec)


def _runs_at_owners(kind: type[Rule]) -> bool:
    """Whether an owner without a rule's code would send another sum."""
    declared = (kind.trains, kind.channels, kind.core) != (Rule.trains, Rule.channels, Rule.core)
    return bool(kind.local or kind.apart or declared or has_personal(kind))


def _knows(spec: StrategySpec, accepted: Collection[str] | None) -> bool:
    """Whether a job's strategy may have a local half or channels of its own here: Flower's have none."""
    if ":" not in spec.name:
        return spec.name in NAMES
    return accepted is None or spec.name in accepted


def _kind(spec: StrategySpec) -> type[Any]:
    """The class that a job names: a ``Rule``, or a strategy of Flower's kind."""
    if spec.name in OURS:
        return ours(spec.name)
    from flwr.serverapp import strategy as flower
    from flwr.serverapp.strategy import Strategy

    module_name, colon, class_name = spec.name.partition(":")
    try:
        found = (
            getattr(importlib.import_module(module_name), class_name, None)
            if colon
            else getattr(flower, spec.name, None)
        )
    except ImportError as error:
        raise StrategyError(f"strategy.name = {spec.name!r}: {error}") from None
    if inspect.isclass(found) and issubclass(found, Rule | Strategy):
        return found
    flowers = sorted(n for n, c in vars(flower).items() if inspect.isclass(c) and n != "Result")
    raise StrategyError(
        f"strategy.name = {spec.name!r} is not a strategy. Umbel's own: {', '.join(NAMES)}; "
        f"Flower's: {', '.join(flowers)}; or module:Class."
    )
