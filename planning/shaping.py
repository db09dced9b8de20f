"""What a job's strategy makes of a model's adapter, for whoever loads the model."""

from __future__ import annotations

import json
from collections.abc import Collection

from ..job import Job
from ..learning.shaping import PLAIN, Shaping
from ..strategies import Rule, has_personal, personal_of, rule_class, trained_over
from ..strategies.construct import construct


def shaping_of(job: Job, accepted: Collection[str] | None = None) -> Shaping:
    """accepted: names of strategies whose own code may be loaded; None: any. Raises ``StrategyError``."""
    spec, rounds = job.strategy, job.training.rounds
    kind = rule_class(spec, accepted)
    if kind is None or job.adapter not in kind.fits:
        return PLAIN
    personal, residual = has_personal(kind), construct(kind, dict(spec.options), spec).residual
    if kind.trains is Rule.trains and not kind.core and not personal and not residual:
        return PLAIN
    key = json.dumps([spec.name, spec.options, rounds], sort_keys=True)
    return Shaping(
        key,
        kind.core,
        lambda shapes: trained_over(spec, shapes, rounds, accepted) if shapes else (),
        (lambda shapes: personal_of(spec, shapes, accepted)) if personal else None,
        residual,
    )
