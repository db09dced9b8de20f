"""What a job may make an owner's machine do: bounded by its policy, and given up when it takes too long."""

import subprocess
import sys

import numpy as np
import pytest

from umbel.client.child import Bench
from umbel.client.home import Home
from umbel.client.intake import Intake
from umbel.client.policy import Policy
from umbel.consortium.warrants import sign_job
from umbel.errors import JobError, PlanRefused
from umbel.flower import stamp, take_server_identity
from umbel.job import Job
from umbel.learning.adapters import add_adapter
from umbel.learning.base_model import base_folder
from umbel.simulations.rehearsal import set_up
from umbel.wire.arrays import to_array_record
from umbel.wire.requests import ASSIGNMENT, PREPARE, TRAIN, Assignment

HANGS = """
import os, sys, time
from umbel.client import worker
from umbel.privacy.dpsgd.optimizer import PrivateOptimizer

at = sys.argv.pop(1)
step = PrivateOptimizer.step

def hang(*given, **named):
    if not os.path.exists(at + ".now"):
        return step(*given, **named)
    open(at, "w").close()
    time.sleep(3600)

PrivateOptimizer.step = hang
worker.main()
"""
"""A worker in which every step hangs, after it has said so, once it is told to."""


class Clock:
    """A clock that waiting moves."""

    time = 0.0

    def now(self):
        return self.time

    def wait_until(self, moment):
        self.time = moment


@pytest.fixture
def owner_of(sound, tmp_path):
    """An owner with a policy of its own, and a way to send it the operator's requests."""
    own = []

    class Owner:
        def __init__(self, job, bench=None, watch=None, **limits):
            self.stage = set_up(job, tmp_path)
            self.home = Home(self.stage.owners[0].path)
            lines = self.home.policy.read_text().splitlines()
            for key, value in limits.items():
                (at,) = (n for n, line in enumerate(lines) if line.startswith(f"{key} ="))
                lines[at] = f"{key} = {value}"
            self.home.policy.write_text("\n".join(lines))
            self.clock = Clock()
            named = {} if watch is None else {"watch": watch}
            self.intake = Intake(self.home, bench=bench or sound, clock=self.clock, **named)
            if bench:
                own.append(bench)

        def ask(self, run="run", kind=PREPARE, round_=0):
            from flwr.app import Message, RecordDict

            take_server_identity(1)
            stage, job = self.stage, self.stage.job.to_json()
            signature = sign_job(stage.consortium.operator, stage.consortium.card.id, run, job)
            rounds = stage.job.training.rounds
            assignment = Assignment("0.1.0", run, job, round_, 0, rounds, signature=signature)
            content = RecordDict({ASSIGNMENT: assignment.to_record()})
            if kind == TRAIN:
                shapes = self.intake._desk.agent._work.shapes if self.intake._desk else {}
                zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
                content["arrays"] = to_array_record(zeros)
            message = Message(content, dst_node_id=2, message_type=kind)
            stamp(message)
            reply = self.intake.handle(message)
            return reply.error.reason if reply.has_error() else "answered"

    yield Owner
    for bench in own:
        bench.close()


BACKTRACKS = [
    "(a+)+$",
    "(.*)*(.*)*x",
    "([a-z.]+)*#",
    ".*query",
    "query|key",
    "^query",
    "a\\.b",
    "",
    "a..b",
]


@pytest.mark.parametrize("target", [*BACKTRACKS, *([text] for text in BACKTRACKS), []])
def test_a_job_with_a_regular_expression_for_modules_is_refused(target):
    with pytest.raises(JobError, match=r"model\.lora\.target"):
        Job.build({"data": {"path": "-"}, "model": {"lora": {"target": target}}})


@pytest.mark.slow
def test_such_an_expression_hangs_where_it_is_matched_as_it_was():
    script = (
        "from peft import LoraConfig\n"
        "from peft.tuners.tuners_utils import check_target_module_exists\n"
        "print('asked', flush=True)\n"
        "config = LoraConfig(target_modules='([a-z0-9.]+)*#')\n"
        "check_target_module_exists(config, 'bert.encoder.layer.0.attention.self.query.projection')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"asked\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)  # of 2 ** 50 tries
    process.kill()
    process.wait(600)


@pytest.mark.parametrize("target", ["query", ["query"], ["attention.self.query"], "self.query"])
def test_endings_name_the_modules_that_end_so(tiny, target):
    from transformers import AutoModel

    job = Job.build(
        {
            "data": {"path": "-"},
            "model": {"base": tiny("bert"), "adapter": "lora", "lora": {"target": target}},
        }
    )
    model = AutoModel.from_pretrained(base_folder(tiny("bert")))
    adapted = add_adapter(job, model, True, [])
    found = {n.partition(".lora_A")[0] for n, _ in adapted.named_parameters() if ".lora_A" in n}
    assert found
    assert all(name.endswith("attention.self.query") for name in found)
    layers = {n for n, _ in model.named_modules() if n.endswith("attention.self.query")}
    assert len(found) == len(layers)


def test_rank_times_modules_is_bounded_by_what_the_model_has(owner_of, open_job_of):
    owner = owner_of(open_job_of(model={"adapter": "lora"}), max_rank_modules=8)
    assert "jobs.max_rank_modules" in owner.ask()

    assert not owner.home.ledger.exists()
    job, policy = owner.stage.job, owner.intake._policy
    most = policy.jobs.max_rank_modules // job.model.lora.rank
    shapes = {f"layer.{number}.lora_A.weight": (1, 1) for number in range(most + 1)}
    with pytest.raises(PlanRefused, match=f"the job has {job.rank} x {most + 1}"):
        policy.check_shapes("mary", job, shapes)
    policy.check_shapes("mary", job, dict(list(shapes.items())[:most]))


@pytest.mark.parametrize(("allowed", "asked"), [(8, 9), (8, 65_535), (64, 64)])
def test_a_residual_is_within_the_ranks_that_an_owner_allows(job_of, allowed, asked):
    """It lies in memory beside the adapter, and travels down in every round."""
    options = {"residual_rank": asked}
    job = job_of(model={"adapter": "lora"}, strategy={"name": "flora", "options": options})
    policy = Policy.simulated(job)
    jobs = policy.jobs.model_copy(update={"max_rank": allowed})
    policy = policy.model_copy(update={"jobs": jobs})
    if asked <= allowed:
        policy.check("north", job)
        return
    with pytest.raises(PlanRefused, match=rf"{allowed} as the rank of residuals \(jobs.max_rank\)"):
        policy.check("north", job)


def test_a_run_that_would_take_longer_than_one_may_is_refused_when_it_begins(owner_of, open_job_of):
    owner = owner_of(open_job_of(training={"rounds": 200}), watch=lambda: 0.0, max_hours=0.001)
    reason = owner.ask()
    assert "jobs.max_hours" in reason
    assert "by public numbers this one would take" in reason
    # Now that the size is known, without a record being read.
    waited = owner.clock.time
    assert owner.ask("another") == reason
    assert owner.clock.time == waited


@pytest.mark.slow
def test_an_answer_that_hangs_ends_the_run_at_a_public_time_and_leaves_no_part(
    owner_of, open_job_of, tmp_path
):
    """A record on which a library loops for ever; before, the agent answered nobody any more."""
    (tmp_path / "hangs.py").write_text(HANGS)
    reached = tmp_path / "reached"
    bench = Bench([sys.executable, "-P", str(tmp_path / "hangs.py"), str(reached)])
    # The hours are over once it hangs, however fast this machine is.
    job = open_job_of(training={"rounds": 1, "local_steps": 1})
    owner = owner_of(job, bench, lambda: 1e9 if reached.exists() else 0.0, max_hours=24)
    assert owner.ask() == "answered"
    timing, before = owner.intake._desk.timing, owner.clock.time
    counted = timing.counted
    (tmp_path / "reached.now").touch()
    reason = owner.ask(kind=TRAIN, round_=1)
    assert "took longer than a whole run may take" in reason
    assert reached.exists()
    # At a time that is planned for an answer before which files are read again; this clock moves by it alone.
    planned = owner.clock.time - before
    assert planned > timing.counted - counted > 0
    reached.unlink(), (tmp_path / "reached.now").unlink()
    # The run is over here; another one begins as ever.
    assert "has ended this run" in owner.ask(kind=TRAIN, round_=1)
    assert "has ended this run" in owner.ask()
    assert owner.ask("another") == "answered"
