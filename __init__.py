"""Umbel: private, federated fine-tuning of Hugging Face transformers.

    import umbel

    plan = umbel.plan("reviews.csv")              # what will run, and its guarantee
    run = umbel.simulate("reviews.csv", training={"rounds": 3})
    run.metrics, run.adapter, run.figure("learning-curve"), run.predict(["..."])
    umbel.compare(run, umbel.Run.open("runs/latest"))

A job describes what is learned (``umbel.Job``), a plan says what will run and what it guarantees
(``umbel.planning``), the server coordinates rounds (``umbel.server``), an agent at every data owner
trains under differential privacy (``umbel.client``), and a strategy turns the updates into the next
model (``umbel.strategies``). ``umbel.simulations`` runs all of it on one machine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.compare import compare
    from .api.plans import plan
    from .api.runs import Run
    from .api.simulate import simulate
    from .errors import UmbelError
    from .job import Job

__version__ = "0.1.0"
__all__ = ["Job", "Run", "UmbelError", "__version__", "compare", "plan", "simulate"]

_PLACES = {
    "Job": "job",
    "Run": "api.runs",
    "UmbelError": "errors",
    "compare": "api.compare",
    "plan": "api.plans",
    "simulate": "api.simulate",
}


def __getattr__(name: str) -> Any:
    """Each name is imported when it is first used: ``import umbel`` takes no time."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
