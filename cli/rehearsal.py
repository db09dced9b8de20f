"""`umbel rehearse`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..foreign import say
from .answers import Answer, answers
from .options import Given, JobFile, Set, asks_for_keys


@answers
@asks_for_keys("clients", clients="Number of data owners [simulation.clients of the job].")
def rehearse(
    job: JobFile,
    given: Given,
    set_: Set = [],  # noqa: B006
    run_dir: Annotated[
        Path | None, typer.Option(help="Where to write [runs/rehearsal-TIME].")
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Simulate the same job too, and compare the adapters.")
    ] = True,
) -> Any:
    """Run a job as a deployment on this machine: server, agents, TLS, keys, all real.

    Then simulate the same job and hold the two adapters side by side: they are the same, bit for bit.
    The privacy noise is seeded for that, so what comes of it is not private.
    """
    from ..job import Job
    from ..simulations.engine import Options, simulate
    from ..simulations.rehearsal import rehearse as run_rehearsal

    loaded = Job.compose(job, given, set_)
    folder = run_dir or Path("runs") / f"rehearsal-{time.strftime('%Y%m%d-%H%M%S')}"

    def tell(text: str) -> None:
        say(text, file=sys.stderr, flush=True)

    run, result = run_rehearsal(loaded, folder, tell)
    say(f"rehearsed in {run.path}\n  adapter {result['adapter_sha256']}")
    values = {"run": str(run.path), "adapter_sha256": result["adapter_sha256"]}
    if not compare:
        return values
    tell("simulating the same job")
    bare = loaded.model_copy(
        update={
            "simulation": loaded.simulation.model_copy(update={"alone": False, "pooled": False})
        }
    )
    simulated = simulate(bare, Options(folder / "simulation", reproducible=True))
    digest = simulated.read_json("result.json")["adapter_sha256"]
    same = digest == result["adapter_sha256"]
    say(f"simulated in {simulated.path}\n  adapter {digest}")
    say("The two are the same, bit for bit." if same else "THE TWO DIFFER.")
    values |= {"simulation": str(simulated.path), "simulated_sha256": digest, "same": same}
    return Answer(values, status=0 if same else 1)
