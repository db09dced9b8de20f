"""How updates become the next model: the contract of a strategy, ours, and Flower's behind an adapter.

A strategy is named in the job: one of ours, a class of ``flwr.serverapp.strategy``, or
``module:Class``, which is a ``Rule`` of this contract or a strategy of Flower's kind.
"""

from .catalogue import NAMES, OURS, ours
from .charged_loss import ChargedLoss, charged_loss
from .contract import Channel, Channels, LocalRule, Rule, Told, has_personal, trained_by_steps
from .named import (
    apart_half,
    buffered,
    build_strategy,
    channels_of,
    channels_over,
    compares,
    heard_of,
    keeps_state,
    leaves_own_model,
    local_half,
    personal_of,
    reaches_by,
    refusals,
    rule_class,
    second_of,
    sees,
    state_of,
    tells_reaches,
    told_by,
    trained_over,
    trains_apart,
    weighs_by_loss,
)

__all__ = [
    "NAMES",
    "OURS",
    "Channel",
    "Channels",
    "ChargedLoss",
    "LocalRule",
    "Rule",
    "Told",
    "apart_half",
    "buffered",
    "build_strategy",
    "channels_of",
    "channels_over",
    "charged_loss",
    "compares",
    "has_personal",
    "heard_of",
    "keeps_state",
    "leaves_own_model",
    "local_half",
    "ours",
    "personal_of",
    "reaches_by",
    "refusals",
    "rule_class",
    "second_of",
    "sees",
    "state_of",
    "tells_reaches",
    "told_by",
    "trained_by_steps",
    "trained_over",
    "trains_apart",
    "weighs_by_loss",
]
