"""What an owner has of its own: trained by the same noised steps, kept, and never sent."""

import numpy as np
import pytest
import torch

from umbel.client.kept import KeptUpdates
from umbel.client.own_state import OwnStates
from umbel.learning.steps import PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.wire.arrays import to_arrays
from umbel.wire.requests import COUNTED, EVALUATE, OWN_STATE, TRAIN


@pytest.fixture
def job_with(open_job_of):
    def build(name, **sections):
        model = {"adapter": "lora" if name != "ditto" else "head"}
        return open_job_of(strategy={"name": name}, model=model, **sections)

    return build


@pytest.fixture
def mary(owner, job_with, tmp_path):
    """An owner who may die at any time: each is made anew over the same folders."""

    def made(name, states=OwnStates, **sections):
        kept = KeptUpdates(tmp_path / "kept")
        job = job_with(name, privacy={"spare_rounds": 2}, **sections)
        return owner(job, kept=kept, states=states(tmp_path / "states"))

    return made


TOLD = {"fedrep": {"head-steps": 1}, "ditto": {"ditto-lambda": 0.1}}


def ask(mary, round_, attempt=0, counted=0, kind=TRAIN):
    told = TOLD.get(mary.job.strategy.name) if kind == TRAIN else None
    records = {COUNTED: {"round": counted, "shown": b""}}
    reply = mary.ask(
        kind, round_, attempt, config=told, records=records, fixed=mary.learner.fixed_digest
    )
    assert not reply.has_error(), reply.error
    arrays = to_arrays(reply.content["arrays"]) if kind == TRAIN else {}
    return arrays, reply.content["metrics"].get(OWN_STATE)


def same(one, other):
    return one.keys() == other.keys() and all(
        one[n].tobytes() == a.tobytes() for n, a in other.items()
    )


def state(mary, tmp_path, counted):
    shape = mary.learner.shape()
    names = shape.personal or {f"apart/{n}": s for n, s in shape.trained.items()}
    return OwnStates(tmp_path / "states").begin(
        "run", mary.job.digest(), names, counted, lambda places: True
    )


@pytest.mark.parametrize("name", ["fedsa-lora", "local-head", "fedrep", "ditto"])
def test_what_is_an_owners_own_moves_and_never_leaves(name, mary, tmp_path):
    one = mary(name)
    own = set(one.learner.personal)
    assert bool(own) == (name != "ditto")
    update, told = ask(one, 1)
    assert set(update) == one.learner.initial.keys()
    assert not set(update) & own
    assert told == 0
    moved = state(one, tmp_path, 1)
    assert moved.round == 1
    assert all(array.any() for array in moved.arrays.values())
    again, told = ask(mary(name), 2, counted=1)
    assert told == 1
    assert not same(again, update)
    further = state(one, tmp_path, 2).arrays
    assert all(not np.array_equal(further[n], a) for n, a in moved.arrays.items())


class Killed(BaseException):
    """As if the process had died here."""


@pytest.mark.parametrize("name", ["fedsa-lora", "ditto"])
def test_an_update_that_is_sent_again_goes_with_the_state_that_it_was_trained_with(
    name, mary, tmp_path
):
    one = mary(name)
    update, _ = ask(one, 1)
    before = state(one, tmp_path, 1).arrays
    job = one.job.digest()
    OwnStates(tmp_path / "states").begin("run", job, {}, 0, lambda places: True)
    again, _ = ask(mary(name), 1, 1)
    assert same(again, update)
    assert len(one.entries()) == 1, "no second release"
    assert same(state(one, tmp_path, 1).arrays, before)


@pytest.mark.parametrize("name", ["fedsa-lora", "ditto"])
@pytest.mark.parametrize("keeps", [False, True])
def test_who_dies_around_its_proposal_has_a_state_for_the_update_that_leaves(
    name, keeps, mary, tmp_path
):
    class Dies(OwnStates):
        def _propose(self, *arguments):
            if keeps:
                super()._propose(*arguments)
            raise Killed

    with pytest.raises(Killed):
        ask(mary(name, Dies), 1)
    one = mary(name)
    update, _ = ask(one, 1, 1)
    found = state(one, tmp_path, 1)
    assert found.round == 1
    assert all(array.any() for array in found.arrays.values())
    # And from there on the same as ever.
    ask(mary(name), 2, counted=1)
    assert state(one, tmp_path, 2).round == 2


def test_an_owner_that_lost_its_part_begins_with_the_common_one_and_says_so(mary, tmp_path):
    one = mary("local-head")
    ask(one, 1)
    for path in (tmp_path / "states").iterdir():
        path.unlink()
    _, told = ask(mary("local-head"), 2, counted=1)
    assert told == 0


def test_a_test_is_of_the_owners_own_part_and_of_nobody_elses(mary):
    """One process serves many owners: what one has trained stays in no weight that another tests with."""
    sections = {"training": {"learning_rate": 0.5}}
    one = mary("local-head", **sections)
    network = one.learner.network
    ask(one, 1)
    ask(mary("local-head", **sections), 1, counted=1, kind=EVALUATE)
    own = {n: p.detach().clone() for n, p in network.trained_parameters()}
    network.load(one.learner.initial)
    for name, start in one.learner.personal.items():
        now = dict(network.trained_parameters())[name].detach().numpy()
        assert now.tobytes() == start.tobytes()
        assert not torch.equal(own[name], torch.from_numpy(start))


@pytest.mark.parametrize("name", ["fedsa-lora", "local-head"])
def test_a_step_clips_shared_and_personal_together_and_adds_noise_to_both(
    name, job_with, learner_of, data_of
):
    """Else the shared gradient of the next step would depend on a record through an un-noised part."""
    sgd = {"optimizer": "sgd", "learning_rate": 1.0, "schedule": "constant", "warmup": 0.0}
    job = job_with(name, training=sgd)
    learner, (data, _) = learner_of(job), data_of(job)
    whole = {**learner.initial, **learner.personal}

    def moved(noise, examples):
        private = PrivateSteps(1.0, 1.0, noise, 0.01, b"k" * 32)
        steps, task = StepRange(0, 1, 1), task_for(job, 2)
        return train(learner, task, whole, examples, steps, seed=0, who="", private=private).update

    one = data.train.take(np.arange(1))
    alone = moved(0.0, one)
    assert alone.keys() == whole.keys()
    length = np.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in alone.values()))
    assert length == pytest.approx(0.01, rel=1e-3)
    noise = moved(2.0, one.none())
    for array in noise.values():
        assert np.abs(array).max() > 0
        assert np.abs(array).max() < 0.02 * 6
