"""Umbel's own strategies, by the name in a job."""

from __future__ import annotations

import importlib

from .contract import Rule
from .robust import ROBUST

OURS = {
    "fedavg": "averaging:FedAvg",
    "fedavgm": "averaging:FedAvgM",
    "fedadam": "fedopt:FedAdam",
    "fedyogi": "fedopt:FedYogi",
    "fedadagrad": "fedopt:FedAdagrad",
    "fedprox": "averaging:FedProx",
    "scaffold": "scaffold:Scaffold",
    "feddyn": "feddyn:FedDyn",
    "ffa-lora": "ffa_lora:FfaLora",
    "rolora": "rolora:RoLora",
    "la-lora": "la_lora:LaLora",
    "fed-sb": "fed_sb:FedSb",
    "fedsa-lora": "fedsa_lora:FedSaLora",
    "local-head": "personal:LocalHead",
    "fedrep": "personal:FedRep",
    "ditto": "ditto:Ditto",
    "q-fedavg": "by_loss:QFedAvg",
    "afl": "by_loss:Afl",
    "fedbuff": "fedbuff:FedBuff",
    "flexlora": "flexlora:FlexLora",
    "lora-fair": "lora_fair:LoraFair",
    "flora": "flora:Flora",
    "fedex-lora": "fedex_lora:FedExLora",
    "hetlora": "hetlora:HetLora",
    **{name: f"robust:{kind.__name__}" for name, kind in ROBUST.items()},
}
"""Umbel's own: module of this room and class, by the name in a job. A new one is a line here."""
NAMES = tuple(OURS)


def ours(name: str) -> type[Rule]:
    """The class of one of Umbel's own."""
    module, _, kind = OURS[name].partition(":")
    found: type[Rule] = getattr(importlib.import_module(f".{module}", __package__), kind)
    return found
