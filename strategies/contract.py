"""The contract of a strategy: what it declares, and its two halves.

``Rule`` is the server's half: what a round adds up, what the server must see, what the owners are told,
and how the next model follows. ``LocalRule`` is the local half, which each owner's agent runs on its own
update. Channels, sizes, bounds and what the server reads follow from the declarations, so the plan knows
them before anything runs. Knows neither Flower nor torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..wire.arrays import Arrays
from ..wire.residual_names import is_residual
from .channels import UPDATE, Channel, Channels, Shapes, Told

__all__ = ["UPDATE", "Channel", "Channels", "LocalRule", "Rule", "Shapes", "Told"]

if TYPE_CHECKING:
    from torch import Tensor

    from ..job import Job

Sight = Literal["SUM", "GROUPS", "INDIVIDUAL"]
"""The least that is enough: more of each client is seen from left to right."""
AdapterKind = Literal["head", "lora", "full"]

APART = "apart/"
"""Before the names of a model of the owner's own in its state (``Rule.apart``)."""


def told_number(
    told: Told, name: str, least: float = 0, *, above: bool = False, whole: bool = False
) -> Any:
    """A number that the server told: finite, and `least` or more, or more than that (`above`).

    A float; if `whole`, an int below 2^53. ``ValueError`` for anything else, and if it was not told.
    """
    found: Any = told.get(name)
    sound = isinstance(found, int if whole else int | float) and not isinstance(found, bool)
    if (
        not sound
        or not least <= found < (2**53 if whole else math.inf)
        or (above and found == least)
    ):
        what = "whole number" if whole else "number"
        bound = f"above {least:g}" if above else f"of {least:g} or more"
        raise ValueError(f"{name} = {found!r} is not a {what} {bound}")
    return found if whole else float(found)


class LocalRule:
    """The local half of a strategy: what an owner does to its own steps and update.

    Made again for each round, from what the server tells. What it must have in the next round is a `state`,
    which never leaves its owner. Raises ``ValueError`` for what nobody should be told.

    Guarantee: under example- and group-level privacy it gets only noised values. `correct` runs
    after a step's noise was added, and `further` reads the update that results from such steps, so
    whatever it does is post-processing (Dwork and Roth 2014, Prop. 2.1) and costs nothing. Under client-level
    privacy all channels are clipped to one norm together, before the noise.
    Assumption: it computes only from its arguments. Its code is the owner's: installed there, and
    accepted by name.
    """

    needs_loss: ClassVar[bool] = False
    """Whether it computes from the owner's loss. In a private job that is a released one, noised and charged
    (``planning.losses``), for Umbel's own strategies alone; with another that needs it the job is refused."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.loss = 0.0
        """If it `needs_loss`: the mean loss, on the owner's training records, of the model that came."""
        self.loss_clip = 1.0
        """The largest that a released loss can be, the same for every owner; 1 without privacy."""
        self.own: Arrays = {}
        """The owner's state as the round begins (float32); zeros if there is none."""
        self.shared: Arrays = {}
        """The model that came, in the training of the owner's own (``Rule.apart``)."""
        self.heard: Arrays = {}
        """What the server sent beside the model (float32)."""
        self.rates = 0.0
        """The sum of the learning rates of the round's steps."""
        self.steps = 1
        """The number of the round's steps."""
        self.rank = 0
        """The rank of adapter that this owner has chosen; 0: the job's."""
        self.model: Arrays = {}
        """The model that the server sent, as `further` and `second` read it."""

    @classmethod
    def state(cls, shapes: Shapes) -> Shapes:
        """Names and shapes of what an owner keeps from round to round, for a model of these tensors."""
        return {}

    @classmethod
    def hears(cls, shapes: Shapes) -> Shapes:
        """Names and shapes of what goes out beside the model, the same to every owner."""
        return {}

    def next_state(self, update: Arrays) -> Arrays:
        """The state that follows from the finished update (float32), as the sum gets it (under client-level
        privacy before it is clipped and noised), without what the update's channel leaves out.

        A pure function of `update` and of what is set before: `own`, `heard`, `rates`, `steps`, and `loss`
        if it `needs_loss`. It counts from the first round on before which the opened sum is known to have
        had the update; else the state stays as it was.
        """
        return {}

    def trains(self, step: int, names: Collection[str]) -> Collection[str]:
        """Of what the round trains, what a step of the job (0, 1, ...) does; the rest rests in it.

        names: with those of the owner's personal tensors.

        It follows from its arguments and what was told, never from a record: a step of DP-SGD clips the
        gradients of these tensors together, and adds noise to these alone.
        """
        return names

    def begins(self, model: Arrays) -> Arrays:
        """What the owner's steps begin with, made of the model that the server sent alone; with the owner's
        personal tensors in it, if there are any.

        The update is the difference to that, and corrections are checked from there.
        """
        return model

    def correct(self, name: str, gradient: Tensor, weight: Tensor, start: Tensor) -> None:
        """Change a step's `gradient` of one tensor in place, before the optimizer takes it.

        weight: the tensor now; start: as the round began. Neither may be changed. What it notes for later
        steps is of this training alone, which begins anew if it fails.
        """

    def sends(self, update: Arrays) -> Arrays:
        """What leaves in place of the finished update (float32), with the same names and shapes; of it, what
        the update's channel has."""
        return update

    def further(self, update: Arrays) -> Mapping[str, Arrays]:
        """The content of the further channels, by channel and tensor, from the finished update (float32)."""
        return {}

    def second(self, update: Arrays, asked: Arrays) -> Mapping[str, Arrays]:
        """The content of the second sum's channels, from the update that was in the first one.

        asked: what the server sends for it (``Rule.asked``). ``ValueError`` if nobody should be asked that.
        """
        return {}


class Rule(ABC):
    """The server's half of a strategy: pure declarations, and how the next model follows from means.

    Options of the job are arguments of the constructor, which raises ``ValueError`` for invalid
    ones. Attributes that are numbers, or dictionaries or lists of arrays, are the strategy's state: they are
    saved with each checkpoint.
    """

    sees: ClassVar[Sight] = "SUM"
    """What it must see: the sum of a cohort; several means to compare, which are those of "GROUPS" under
    encryption, else each client's own update; or each client's own in any case ("INDIVIDUAL")."""
    local: ClassVar[type[LocalRule] | None] = None
    """The local half, if owners do more than train."""
    apart: ClassVar[type[LocalRule] | None] = None
    """The local half of the training of a second model, the owner's own, if there is one.

    That one begins with the job's first model and goes on from round to round, with as many steps as the
    round has. They are not noised, so nothing of it leaves: no number, and no figure. The shared model's
    steps never see it.
    """
    fits: ClassVar[tuple[AdapterKind, ...]] = ("head", "lora", "full")
    """The kinds of ``model.adapter`` that it is for."""
    buffered: ClassVar[bool] = False
    """Whether it sums whoever is ready, in place of a round's cohort (``fedbuff``). Only Umbel's own rules
    may: the plan refuses it of another."""
    ranked: ClassVar[bool] = False
    """Whether owners may train LoRA adapters of smaller ranks than the job's (``LocalRule.rank``)."""
    core: ClassVar[bool] = False
    """Whether LoRA's factors are fixed and made of the frozen weights, with a core between them that is
    trained (``learning.lora_core``)."""

    when: ClassVar[str] = ""
    """When to choose it, in a sentence."""
    clients: int = 0
    """How many a round asks at most, as the plan says; 0: it is not known."""
    clip: float = 1.0
    """Largest magnitude of an update's entries, as the plan says, where a sum has one."""
    residual: int = 0
    """Columns of a second pair of factors in each adapted layer, which stands for what the rule puts into the
    base: it goes down with the model, and nobody trains it (``residual``). Only with a second sum."""
    dropped: float = 0.0
    """Frobenius norm of what did not fit there in the last round."""

    @classmethod
    def personal(cls, shapes: Shapes) -> Collection[str]:
        """Of a model with tensors of these shapes, the names that each owner trains for itself, and keeps.

        They never travel. All begin with the same values; from then on an owner trains and tests with its
        own, beside the shared ones that came. How far they moved is a part of its own state, so an
        owner that lost it begins with the common values again. A function of the names and shapes alone.
        """
        return ()

    def trains(self, round_: int, shapes: Shapes) -> Collection[str]:
        """Names of the tensors that are trained and sent in a round, of a model of these; the rest rest.

        Personal ones are trained in each round, whatever it says of them.

        A pure function of its arguments: server and owners compute it each for themselves. A tensor that
        no round of the job trains never travels: every owner makes it of the base model and the job's
        seed, and readiness compares a digest of all such tensors.
        """
        return shapes.keys()

    @classmethod
    def refusals(cls, job: Job) -> Iterator[str]:
        """Why a job cannot be right with this strategy, each with what to do; none if it can."""
        return iter(())

    def channels(self, shapes: Shapes) -> tuple[Channel, ...]:
        """What a round adds up that trains these tensors; the update comes first.

        The update's channel may leave out tensors of which another channel says what is needed: their
        changes stay at the owner, and ``next_model`` gets no mean of them.
        """
        return (Channel(UPDATE, shapes),)

    def second(self, shapes: Shapes) -> tuple[Channel, ...]:
        """What a second sum of the round adds up, over exactly the clients of the first; none with most.

        Owners make it of the same update, with what the server `asked` after it knew the first sum. It does
        not go with a state, personal tensors or a model `apart`.
        """
        return ()

    def asks(self, shapes: Shapes) -> Shapes:
        """Names and shapes of what the server sends for the second sum; shapes: of what is trained."""
        return {}

    def asked(self, model: Arrays) -> Arrays:
        """What the server sends for the second sum, the same to every owner; the first one was heard.

        model: the part that the round trains (float32).
        """
        return {}

    def scales(self, model: Arrays, asked: Arrays | None = None) -> Mapping[str, float]:
        """Public reaches of the first sum's channels, in place of the declared ones, by channel; or, with
        what is `asked`, of the second sum's.

        model: the part that the round trains (float32). A pure function of the options, the round that was
        `told`, `clients`, `clip` and its arguments: an owner computes it, too, and refuses a server that
        tells another reach. One that is too small would have each owner scaled down by a factor of its own.
        """
        return {}

    def told(self, round_: int) -> Mapping[str, float]:
        """What the local half must know in a round, the same for every owner.

        A pure function of the options, the round and `clients`: an owner computes it, too, and refuses a
        server that tells it otherwise. What follows from earlier rounds is `sent`.
        """
        return {}

    def sent(self, model: Arrays) -> Arrays:
        """What the local half `hears` in a round, with the current model (float32)."""
        return {}

    def summed(self, share: float, rates: float) -> None:
        """Told before the means of a round are heard.

        share: of all owners' weight, how much is in the means. rates: as the local half knows them.
        """
        return

    def hear(self, channel: str, name: str, mean: np.ndarray) -> None:
        """Receive the mean (float64) of one tensor of a further channel; all come before ``next_model``."""
        raise NotImplementedError(f"{type(self).__name__} declares {channel!r} but does not use it")

    def combine(self, updates: np.ndarray, asked: int) -> np.ndarray:
        """What stands for the mean update (float64[d]) of a rule that sees more than a sum.

        updates: float32[n, d], a row for the mean of each group, or for each client, in the cohort's order.
        asked: clients of the round, whether they answered or not.
        """
        raise NotImplementedError(f"{type(self).__name__} sees {self.sees} and combines nothing")

    def refusal(self, vectors: int, asked: int) -> str:
        """Why it cannot work with so many rows in ``combine``; empty if it can."""
        return ""

    @abstractmethod
    def next_model(
        self, model: Arrays, mean_update: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The next model from the current one (float32) and the mean update (float64).

        Called with some tensors of each at a time, of those that the round trained; the others stay, and so
        do those that it does not return. Of a tensor that the update's channel leaves out there is no mean;
        they come last. With a second sum: with all of them at once, and in the model with its residuals.
        """


def has_personal(kind: type[Rule]) -> bool:
    """Whether a rule declares personal tensors, of some models at least."""
    theirs: Any = kind.personal
    usual: Any = Rule.personal
    return theirs.__func__ is not usual.__func__


def trained_shapes(rule: Rule, round_: int, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Of what a rule trains in a round, in the model's order. ``ValueError`` for what cannot be."""
    shapes = {name: shape for name, shape in shapes.items() if not is_residual(name)}
    chosen = set(rule.trains(round_, shapes)) - set(rule.personal(shapes))
    if unknown := sorted(chosen - shapes.keys()):
        raise ValueError(f"it trains {unknown[0]!r}, which the model does not have")
    if shapes and not chosen:
        raise ValueError(f"it trains nothing in round {round_}")
    return {name: shape for name, shape in shapes.items() if name in chosen}


def trained_by_steps(
    local: LocalRule | None, names: Collection[str], first: int, count: int
) -> list[tuple[str, ...]]:
    """The different sets of tensors that `count` steps from `first` on train. `local`: if there is one."""
    if local is None:
        return [tuple(names)]
    each = (tuple(local.trains(step, names)) for step in range(first, first + count))
    return list(dict.fromkeys(each))


def checked_channels(rule: Rule, shapes: Shapes) -> Channels:
    """The channels that a rule declares for what it trains. ``ValueError`` for what cannot be summed."""
    found = rule.channels(shapes)
    names = [channel.name for channel in found]
    sound = names[:1] == [UPDATE] and found[0].shapes.items() <= shapes.items()
    if not sound or found[0].reach != 1.0:
        raise ValueError("its first channel is not the update of the model's own tensors")
    if len(names) == 1 and len(found[0].shapes) < len(shapes):
        raise ValueError("it leaves tensors out of the update, and has no other channel for them")
    if len(names) > 1 and rule.sees != "SUM":
        raise ValueError(f"a rule that compares updates has no further channel, such as {names[1]}")
    if len(set(names)) < len(names):
        raise ValueError(f"two of its channels have the same name: {', '.join(names)}")
    if rule.residual and type(rule).second is Rule.second:
        raise ValueError("it has a residual, which only a rule with a second sum can move")
    if len(names) > 1 and rule.local is None:
        raise ValueError(f"no local half fills its channel {names[1]}")
    channels = Channels(found, shapes)
    further = sum(len(channel.shapes) for channel in channels.further)
    if len({**shapes, **channels.shapes}) < len(shapes) + further:
        raise ValueError(
            "a tensor of its further channels has the same name as a tensor of the model"
        )
    return channels


def checked_sent(rule: Rule, model: Arrays) -> Arrays:
    """What a rule sends beside the model. ``ValueError`` for anything but what its local half hears."""
    found = rule.sent(model)
    hears = rule.local.hears({n: w.shape for n, w in model.items()}) if rule.local else {}
    if {name: array.shape for name, array in found.items()} != dict(hears):
        raise ValueError(
            f"{type(rule).__name__} sends other arrays beside the model than its local half hears"
        )
    return {name: np.asarray(found[name], np.float32) for name in hears}
