"""Records that kill the process that works on them: the child dies, and the answer leaves."""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import sys
import time

import numpy as np
import pytest

from umbel.client.child import Bench, Child, WorkInChild, WorkLost, command
from umbel.client.data import DataSource
from umbel.client.intake import Intake
from umbel.client.left_out import LeftOut
from umbel.client.marks import Marks
from umbel.client.settings import DataSettings
from umbel.client.work import WorkHere
from umbel.client.worker import Setup, records_of, workplace_of
from umbel.consortium.warrants import sign_job
from umbel.flower import stamp, take_server_identity
from umbel.learning.steps import PrivateSteps
from umbel.simulations.rehearsal import set_up
from umbel.wire.arrays import to_array_record
from umbel.wire.requests import ASSIGNMENT, PREPARE, TRAIN, Assignment

DEADLY = """
import json, os, signal, sys
import numpy as np, torch
from transformers import PreTrainedTokenizerFast as Tokenizer
from umbel.client import worker
from umbel.privacy.dpsgd.optimizer import PrivateOptimizer

found = json.load(open(sys.argv.pop(1)))
look_up, tokenise, step = torch.nn.Embedding.forward, Tokenizer.__call__, PrivateOptimizer.step

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def forward(layer, ids):
    for row in ids:
        if any(row[: len(tokens)].tolist() == tokens for tokens in found["tokens"]):
            die()
    return look_up(layer, ids)

def call(tokenizer, texts, **named):
    if any(text in texts for text in found["texts"]):
        die()
    return tokenise(tokenizer, texts, **named)

torch.nn.Embedding.forward, Tokenizer.__call__ = forward, call
if found["step"]:
    PrivateOptimizer.step = lambda optimizer: die()
worker.main()
"""
"""A worker that some records kill, or every step."""


class Skipped:
    """A clock by which nobody waits."""

    def now(self):
        return 0.0

    def wait_until(self, moment):
        pass


@pytest.fixture(scope="module")
def setup(job_of, reviews_csv, tmp_path_factory):
    marks = Marks(tmp_path_factory.mktemp("marks"))
    files = (tmp_path_factory.mktemp("left out") / f"{number}.npy" for number in itertools.count())

    def build(adapter="lora", **sections):
        model = {**job_of().model.model_dump(exclude={"lora"}), "adapter": adapter}
        job = job_of(model=model, **sections)
        declared = DataSettings(
            path=str(reviews_csv),
            text_column="text",
            label_column="label",
            labels=["negative", "positive"],
        )
        source = DataSource(
            reviews_csv, None, declared, "account", bytes(32), marks, LeftOut(next(files))
        )
        return Setup("mary", job, source, None, threads=1, gpu_memory_share=1.0)

    return build


@pytest.fixture
def bench(tmp_path):
    """Starts benches; `deadly` names what kills their children. They end with the test."""
    benches = []

    def start(**deadly):
        command = None
        if deadly:
            (tmp_path / "deadly.py").write_text(DEADLY)
            what = {"tokens": [], "texts": [], "step": False, **deadly}
            (tmp_path / "deadly.json").write_text(json.dumps(what))
            script = [str(tmp_path / "deadly.py"), str(tmp_path / "deadly.json")]
            command = [sys.executable, "-P", *script]
        benches.append(Bench(command))
        return benches[-1]

    yield start
    for one in benches:
        one.close()


def in_child(bench, setup):
    child = WorkInChild(bench, setup)
    child.open()
    return child


def steps(rate=0.5):
    return PrivateSteps(rate, 20.0, 0.3, 1.0, bytes(range(32)))


def here(setup, without=frozenset()):
    """The same work in this process, on records but for some rows."""
    data = records_of(setup)

    def kept(examples):
        return dataclasses.replace(
            examples, rows=np.array([row for row in examples.rows if row not in without])
        )

    data = dataclasses.replace(data, train=kept(data.train), test=kept(data.test))
    return WorkHere("mary", workplace_of(setup.job), data)


def as_bytes(outcome):
    return b"".join(array.tobytes() for array in outcome.update.values())


def close(outcome, other):
    """The same to the rounding of texts that stand in other microbatches."""
    names = outcome.update.keys()
    assert names == other.update.keys()
    return all(np.allclose(outcome.update[n], other.update[n], atol=2e-5) for n in names)


@pytest.mark.parametrize("adapter", ["lora", "head"])
def test_the_child_computes_what_this_process_would_bit_for_bit(adapter, setup, sound):
    made = setup(adapter)
    child, own = in_child(sound, made), here(made)
    child.prepare()
    arrays = own._workplace.learner.initial
    assert (child.shapes, child.base_model) == (own.shapes, own.base_model)
    assert as_bytes(child.trained(made.job, 1, arrays, steps())) == as_bytes(
        own.trained(made.job, 1, arrays, steps())
    )
    assert child.tested(made.job, arrays).to_list() == own.tested(made.job, arrays).to_list()


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [[3], [3, 11]])
def test_records_that_kill_the_child_in_a_step_count_as_if_they_were_not_there(
    chosen, setup, bench
):
    made = setup()
    data = records_of(made)
    killers = [int(data.train.rows[at]) for at in chosen]
    deadly = bench(tokens=[data.train.store.tokens(row).tolist() for row in killers])
    child, own = in_child(deadly, made), here(made, set(killers))
    arrays = own._workplace.learner.initial
    sure = steps(rate=1.0)
    first = child.trained(made.job, 1, arrays, sure)
    assert child._left_out == set(killers)
    anew = sure
    for _ in killers:
        anew = anew.drawn_anew()
    assert anew.key != sure.key
    assert close(first, own.trained(made.job, 1, arrays, anew))
    # Once they are known nobody dies, and the bits are those of an owner without them.
    second = as_bytes(own.trained(made.job, 2, arrays, sure))
    assert as_bytes(child.trained(made.job, 2, arrays, sure)) == second
    # Nor does an agent that starts anew, of which nobody has said so, let them kill again.
    again = in_child(deadly, made)
    process = deadly._child.process.pid
    assert as_bytes(again.trained(made.job, 2, arrays, sure)) == second
    assert deadly._child.process.pid == process
    assert again._left_out == set()


@pytest.mark.slow
def test_a_record_that_kills_the_child_in_a_test_is_not_counted(setup, bench):
    made = setup()
    data = records_of(made)
    killer = int(data.test.rows[2])
    child = in_child(bench(tokens=[data.test.store.tokens(killer).tolist()]), made)
    own = here(made, {killer})
    arrays = own._workplace.learner.initial
    found, expected = child.tested(made.job, arrays), own.tested(made.job, arrays)
    assert found.to_list()[:-1] == expected.to_list()[:-1]
    assert child._left_out == {killer}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["texts", "tokens"])
def test_a_record_that_kills_the_tokenizer_or_the_base_model_is_left_out(
    where, setup, bench, texts, monkeypatch, tmp_path
):
    made = setup("head")
    data = records_of(made)
    killer = int(data.train.rows[5])
    what = {"texts": texts[killer], "tokens": data.train.store.tokens(killer).tolist()}
    monkeypatch.setenv("UMBEL_CACHE", str(tmp_path / "cache"))  # where nothing is known yet
    child = in_child(bench(**{where: [what[where]]}), made)
    child.prepare()
    assert child._left_out == {killer}
    own = here(made, {killer})
    arrays = own._workplace.learner.initial
    assert close(
        child.trained(made.job, 1, arrays, steps()), own.trained(made.job, 1, arrays, steps())
    )


@pytest.mark.slow
def test_deaths_that_no_record_is_to_blame_for_come_to_an_end(setup, bench):
    made = setup()
    deadly = bench(step=True)
    child = in_child(deadly, made)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in child.shapes.items()}
    with pytest.raises(WorkLost):
        child.trained(made.job, 1, arrays, steps())
    assert child._left_out == set()
    # What a step does not take part in goes on.
    assert child.tested(made.job, arrays).examples > 0


def test_an_error_in_the_child_is_raised_here_and_it_lives_on(setup, sound):
    made = setup()
    child = in_child(sound, made)
    with pytest.raises(KeyError):
        child.trained(made.job, 1, {}, steps())
    arrays = {name: np.zeros(shape, np.float32) for name, shape in child.shapes.items()}
    assert child.trained(made.job, 1, arrays, steps()).update.keys() == child.shapes.keys()


def test_the_child_ends_with_its_parent_however_that_ends():
    """The agent is killed: nobody may go on holding the records."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            os.write(write, str(Child(command()).process.pid).encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    child = int(os.read(read, 100))
    os.close(read)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    until = time.monotonic() + 600
    while os.path.exists(f"/proc/{child}") and time.monotonic() < until:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")


def test_a_child_that_was_killed_from_outside_is_started_again(setup, sound):
    child = in_child(sound, setup())
    os.kill(sound._child.process.pid, signal.SIGKILL)
    sound._child.process.wait(600)
    child.prepare()
    assert child._left_out == set()


@pytest.mark.slow
def test_an_agent_whose_worker_is_killed_by_a_record_answers_in_the_usual_form(
    open_job_of, bench, tmp_path
):
    """Over real files and a real ledger: charge, fields and sizes of the answer are the usual ones."""
    from flwr.app import Message, RecordDict

    model = {**open_job_of().model.model_dump(exclude={"lora"}), "adapter": "lora"}
    # Everybody is drawn in every step.
    stage = set_up(open_job_of(model=model, training={"batch_size": 1000}), tmp_path)
    home, job = stage.owners[0], stage.job
    take_server_identity(1)

    def ask(intake, run, kind):
        signature = sign_job(
            stage.consortium.operator, stage.consortium.card.id, run, job.to_json()
        )
        assignment = Assignment(
            "0.1.0", run, job.to_json(), 1, 0, job.training.rounds, signature=signature
        )
        content = RecordDict({ASSIGNMENT: assignment.to_record()})
        if kind == TRAIN:
            shapes = intake._desk.agent._work.shapes
            zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
            content["arrays"] = to_array_record(zeros)
        message = Message(content, dst_node_id=2, message_type=kind)
        stamp(message)
        reply = intake.handle(message)
        assert not reply.has_error(), reply.error.reason
        return reply.content

    def form(content):
        arrays = [(n, a.dtype, a.shape) for n, a in content["arrays"].items()]
        return arrays, dict(content["metrics"]), list(content)

    data = home.source.load(job)
    killer = data.train.store.tokens(int(data.train.rows[0])).tolist()
    forms = []
    for number, started in enumerate((bench(), bench(tokens=[killer]))):
        with contextlib.closing(Intake(home, bench=started, clock=Skipped())) as intake:
            ask(intake, f"run-{number}", PREPARE)
            forms.append(form(ask(intake, f"run-{number}", TRAIN)))
            left_out = intake._desk.agent._work._left_out
    assert len(left_out) == 1
    assert forms[0] == forms[1]
