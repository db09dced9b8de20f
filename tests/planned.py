"""Plans of jobs over owners that are only numbers: what tests of plans share."""

from umbel.job import Job
from umbel.learning.model import ModelShape
from umbel.learning.probing.verdict import INDEPENDENT
from umbel.planning.facts import ClientFacts
from umbel.planning.plan import Plan

MODEL = ModelShape(
    {"head.weight": (2, 16), "head.bias": (2,)}, 1000, "ab" * 32, "/model", INDEPENDENT
)
NAMES = [f"client-{number}" for number in range(12)]


def job_of(**sections):
    """A job without encryption and without tests, unless the sections say otherwise."""
    plain = {"encryption": {"mode": "none"}, "evaluation": {"counts": "off"}}
    return Job.build({"data": {"path": "a.csv"}, **plain, **sections})


def facts(*sizes, share=1.0, strict=False, held_out=True):
    return [
        ClientFacts(f"client-{n}", size, share, strict, held_out) for n, size in enumerate(sizes)
    ]


def plan(job, clients=None, model=MODEL):
    return Plan.compile(job, clients or facts(500, 900), model)
