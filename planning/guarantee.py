"""What a private job promises, to whom, and what it does not: as JSON values, and in one sentence.

The sentence is made from the values, so that neither can say what the other does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..job import Job
from ..strategies import buffered
from .losses import clip_of_loss, releases_loss
from .noise import most_spent
from .terms import Terms

_DECLARED = ["who takes part", "what owners declare about their data (label names, shares)"]
_ONE_GROUP = (
    "one group (all records with one value of the owner's group column, such as one patient)"
)


def guarantee_facts(terms: Terms, epsilon: float | None) -> dict[str, Any]:
    """The guarantee as JSON values: unit, neighbours, figures, mechanism, adversary, assumptions.

    epsilon: the planned one, the largest of any client; None without privacy.
    """
    job = terms.job
    if epsilon is None:
        return {"unit": job.privacy.unit}
    facts = {
        "unit": job.privacy.unit,
        "epsilon": _up(epsilon),
        "delta": job.privacy.delta,
        "never_more_than": job.privacy.owner_limit,
        "rounds": job.training.rounds,
        "clipping_norm": job.privacy.clipping_norm,
    }
    return facts | (_of_clients if job.per_client else _of_records)(terms)


def _of_records(terms: Terms) -> dict[str, Any]:
    job = terms.job
    exact = (
        "held-out records (their exact counts "
        f"{'are summed over the cohort' if job.encrypted else 'are reported'})"
    )
    return {
        "neighbours": f"{_ONE_GROUP if job.per_group else 'one record'} added or removed",
        "against": "anyone who sees a client's updates or any model of this job, the server included",
        "mechanism": "DP-SGD with Poisson sampling"
        + (" of whole groups, which weigh as much as one record each" if job.per_group else "")
        + _weighed(job),
        "accountant": "PLD" if not job.tests_privately else "PLD and Renyi",
        "amplified_by": f"Poisson sampling of {'groups' if job.per_group else 'records'} at each client",
        "assumes": [],
        "not_covered": ([exact] if job.counts == "exact" else []) + _DECLARED,
    }


def _weighed(job: Job) -> str:
    if not releases_loss(job):
        return ""
    whose = "groups' mean losses" if job.per_group else "losses"
    return (
        f" and, once a round without sampling, Gaussian noise on a client's mean loss (of {whose} clipped "
        f"to {clip_of_loss(job):g}), whose noised value alone weights its update"
    )


def _of_clients(terms: Terms) -> dict[str, Any]:
    job = terms.job
    found = {
        "neighbours": "all data of one client exchanged for any other",
        "accountant": "Renyi" if job.noised_by_clients or job.tests_privately else "PLD",
        "amplified_by": None,
        "not_covered": _DECLARED,
    }
    if not job.noised_by_clients:
        return found | {
            "against": "anyone who sees a model of this job, BUT NOT THE SERVER, which sees sums without "
            "noise",
            "mechanism": "Gaussian noise that the server is trusted to add to each sum",
            "assumes": [
                "the server adds the noise, and keeps the sums to itself",
                *(_few_collude(terms) if job.tests_privately else []),
            ],
        }
    return found | {
        "against": "anyone who sees the opened sums or any model of this job, the server included",
        "mechanism": "the distributed discrete Gaussian mechanism (each client's share of the noise "
        f"suffices with {terms.noise_shares} honest clients in a sum, which holds while at most "
        f"{terms.colluders} of {terms.consortium} collude)",
        "assumes": _few_collude(terms),
    }


def _few_collude(terms: Terms) -> list[str]:
    """What noise that is shared among clients rests on."""
    return [f"at most {terms.colluders} of {terms.consortium} clients collude with the server"]


def sentence(terms: Terms, epsilon: float | None, tests: int, further: Sequence[str] = ()) -> str:
    """The guarantee for people, without what the server can read; `tests` are planned.

    further: channels that the strategy adds up beside the update, by name.
    """
    job, facts = terms.job, guarantee_facts(terms, epsilon)
    if epsilon is None:
        if job.encrypted:
            return (
                "No differential privacy: sums of updates and models may reveal records of any "
                "client; the raw records stay with their owners."
            )
        return (
            "No differential privacy: updates and models may reveal records of any client, and the "
            "server sees each client's update; the raw records stay with their owners."
        )
    against = facts["against"]
    *others, last = facts["not_covered"]
    return (
        f"{against[0].upper()}{against[1:]}, learns almost the same {_whatever(job)}: "
        f"({facts['epsilon']:g}, {facts['delta']:g})-differential privacy for {facts['neighbours']}, "
        f"by {facts['mechanism']}{_clipped(job, further)}, composed over "
        f"{'at most ' if _fewer(job) else ''}{facts['rounds']} rounds by "
        f"the {facts['accountant']} accountant{_sampled(job)}{_tested(terms, tests)}; "
        f"{most_spent(job)}; not "
        f"covered are {', '.join(others)} and {last}."
    )


def _fewer(job: Job) -> bool:
    """Whether some client may take part in fewer rounds than there are."""
    asynchronous = buffered(job.strategy) is not None
    return bool(job.evaluation.patience or job.cohort.size or asynchronous)


def plainly(job: Job, right: float) -> str:
    """The guarantee for somebody who decides on it; right: the most guesses that are right, 0.5 to 1."""
    share = f"{math.ceil(right * 1000) / 10:g} %"
    if job.per_client:
        what = "everything except one client's data, and two candidates for these"
        asked = "which of the two they are"
    else:
        unit = "patient's records" if job.per_group else "record"
        were = "were" if job.per_group else "was"
        what, asked = f"everything except one {unit}", f"whether that {unit} {were} in the data"
    return (
        f"In plain words: an attacker who knows {what}, and sees all that this job releases, is "
        f"right about {asked} in at most {share} of cases (a coin: 50 %). Attacks in practice are "
        "further from certain: umbel audit tries some."
    )


def _whatever(job: Job) -> str:
    if job.per_group:
        return "whether or not any one patient's records were in that client's data"
    if job.noised_locally:
        return "whether or not any one record was in that client's training data"
    return "whatever any one client's data are"


def _clipped(job: Job, further: Sequence[str]) -> str:
    if job.noised_locally:
        return ""
    adaptive = ", a norm that moves by a noised count" if job.privacy.clipping == "adaptive" else ""
    together = "".join(f" and {name}" for name in further) + (" together" if further else "")
    return f", of updates{together} clipped to L2 norm {job.privacy.clipping_norm:g}{adaptive}"


def _sampled(job: Job) -> str:
    return "" if job.noised_locally else " without amplification by sampling"


def _tested(terms: Terms, tests: int) -> str:
    job = terms.job
    if not job.tests_privately or not tests:
        return ""
    shared = " that each client adds whole to its own"
    if job.per_client:
        few = f", so while at most {terms.colluders} collude"
        shared = f", shared among clients{'' if job.noised_by_clients else few}"
    return (
        "; the same holds for held-out records, whose counts carry discrete Gaussian noise"
        f"{shared} ({tests} test{'s' if tests > 1 else ''} planned, together at most epsilon "
        f"{job.tests_epsilon:g}, within the above)"
    )


def _up(epsilon: float) -> float:
    """Three digits after the point, rounded up: a promise is never larger than what holds."""
    return math.ceil(epsilon * 1000) / 1000
