"""Attacks of a server, and of its operator, on what a strategy has an owner keep for itself.

Each is tried on a weakened owner, too, at which it succeeds.
"""

import numpy as np
import pytest

from umbel.client.own_state import Own, OwnStates
from umbel.client.run_files import of_run
from umbel.client.strategy import StrategyHere
from umbel.client.work import WorkHere
from umbel.learning.probing.received import MOST_WEIGHT, ReceivedWeights
from umbel.privacy.randomness import SecretStream
from umbel.wire.arrays import to_array_record, to_arrays
from umbel.wire.requests import BESIDE, COUNTED, EVALUATE, OWN_STATE, TRAIN, WEIGHT

SGD = {"optimizer": "sgd", "learning_rate": 0.5, "schedule": "constant", "warmup": 0.0}


def counted(round_):
    return {COUNTED: {"round": round_, "shown": b""}}


def own_model(mary, states):
    """How far Ditto's own model of an owner is from the start: un-noised, so it must never leave."""
    shapes = {f"apart/{name}": array.shape for name, array in mary.learner.initial.items()}
    found = states.begin("run", mary.job.digest(), shapes, 1, lambda places: True)
    assert found.round == 1
    return {name.removeprefix("apart/"): array for name, array in found.arrays.items()}


class OfAnyJob(OwnStates):
    """States that are not bound to the job."""

    def _read(self, run, job):
        return super()._read(run, self.job)


@pytest.fixture
def in_a_changed_job(owner, open_job_of, tmp_path):
    """After a round of Ditto the operator signs SCAFFOLD for the same run, whose state has the same shape."""

    def ask(states):
        def made(name, where=states):
            job = open_job_of(strategy={"name": name}, training=SGD)
            secrets = {"secrets": lambda what: SecretStream.from_key(bytes(32))}
            return owner(job, states=where(tmp_path / "states"), **secrets)

        ditto = made("ditto", OwnStates)
        states.job = ditto.job.digest()
        told = {"ditto-lambda": 0.1}
        assert not ditto.ask(TRAIN, 1, config=told, records=counted(0)).has_error()
        moved = own_model(ditto, OwnStates(tmp_path / "states"))
        scaffold = made("scaffold")
        zeros = {name: np.zeros_like(array) for name, array in moved.items()}

        def read(owner, round_):
            records = {BESIDE: to_array_record(zeros), **counted(round_)}
            return owner.ask(TRAIN, 2, config={"none": 0}, records=records)

        before = len(ditto.entries())
        return moved, read(scaffold, 1), read, made, before

    return ask


def test_what_ditto_trains_without_noise_is_no_other_jobs_state_in_the_same_run(in_a_changed_job):
    _, reply, _, made, before = in_a_changed_job(OwnStates)
    assert "had another job before" in reply.error.reason
    assert len(made("scaffold").entries()) == before, "nothing is charged"


def test_of_states_that_no_job_is_bound_to_a_server_reads_the_own_model(in_a_changed_job, tmp_path):
    moved, reply, read, made, _ = in_a_changed_job(OfAnyJob)
    assert reply.content["metrics"][OWN_STATE] == 1
    with_it = to_arrays(reply.content["arrays"])
    made_anew = made("scaffold", lambda folder: OwnStates(tmp_path / "other"))
    without = to_arrays(read(made_anew, 0).content["arrays"])
    rates = made_anew.job.training.local_steps * 0.5
    for name, array in moved.items():
        # The same draws of records and noise: what the state adds to the update is the own model.
        farthest = float(np.abs(array).max())
        assert farthest > 1e-3
        assert (with_it[name] - without[name]) / rates == pytest.approx(array, abs=0.1 * farthest)


@pytest.fixture
def told_by_refusals(owner, open_job_of, tmp_path, monkeypatch):
    """A model at the edge of what owners accept, and an owner whose own part may lead beyond it."""

    def ask(name, own, kind=TRAIN, precision="float32"):
        lora = {"adapter": "lora"} if name == "local-head" else {}
        job = open_job_of(
            strategy={"name": name},
            model=lora,
            training={**SGD, "precision": precision},
            evaluation={"counts": "private"},
        )
        mary = owner(job, states=OwnStates(tmp_path / f"states {own}"))
        mary.taken = []
        mary.compared = []
        monkeypatch.setattr(WorkHere, "trained", noted(mary.taken))
        monkeypatch.setattr(ReceivedWeights, "_compare", counted_in(mary.compared))
        learner = mary.learner
        start = learner.personal or learner.initial
        state = {n: np.zeros_like(array) for n, array in start.items()}
        bias = next(n for n, array in start.items() if array.ndim == 1)
        if own == ROUNDED:  # a head that reads nothing but rounding, with no entry too large
            head = next(n for n, array in start.items() if array.ndim == 2)
            state[head][0], state[head][1] = 0.9 * MOST_WEIGHT, -0.9 * MOST_WEIGHT
        else:
            state[bias][0] = own
        first = Own("run", job.digest(), 0, {n: np.zeros_like(a) for n, a in state.items()})
        OwnStates(tmp_path / f"states {own}").propose(first, 1, bytes(32), state, None)
        model = {n: array.copy() for n, array in learner.initial.items()}
        beside = {}
        if bias in model:
            model[bias][0] = MOST_WEIGHT - 1
            zeros = {n: np.zeros_like(array) for n, array in model.items()}
            beside = {BESIDE: to_array_record(zeros)} if kind == TRAIN else {}
        return mary, mary.ask(
            kind,
            2,
            arrays=model,
            config={"none": 0},
            records={**beside, **counted(1)},
            fixed=learner.fixed_digest,
        )

    return ask


TRAINED = WorkHere.trained


def noted(taken):
    def trained(self, *arguments, records=True, **named):
        taken.append(records)
        return TRAINED(self, *arguments, records=records, **named)

    return trained


COMPARE = ReceivedWeights._compare


def counted_in(compared):
    """The passes that weights are tried in, which take time."""

    def compare(self, tolerance):
        compared.append(tolerance)
        return COMPARE(self, tolerance)

    return compare


NEAR, ROUNDED = 0.5, "by its company"
FAR = {"scaffold": (3.0, 5.0), "local-head": (MOST_WEIGHT + 3, MOST_WEIGHT + 5)}


@pytest.mark.parametrize(
    ("name", "far", "precision"),
    [
        *((name, far, "float32") for name, far in FAR.items()),
        ("local-head", (MOST_WEIGHT + 3, ROUNDED), "bfloat16"),
    ],
)
def test_no_refusal_depends_on_what_is_an_owners_own(name, far, precision, told_by_refusals):
    """Under encryption a server would find out any number of it, for nothing, by one after the other.

    A part of zeros is not among them: it takes fewer passes, and the answer says that it is the first.
    """
    answers, taken, tried = [], [], []
    for own in (NEAR, *far):
        mary, reply = told_by_refusals(name, own, precision=precision)
        assert not reply.has_error(), reply.error
        assert reply.content["metrics"][OWN_STATE] == 1
        answers.append((reply.content.keys(), reply.content["arrays"].keys(), len(mary.entries())))
        taken.append(mary.taken)
        tried.append(mary.compared)
    assert answers == [(*answers[0][:2], charged) for charged in (1, 2, 3)]
    assert len({*tried[0]}) == (2 if precision == "bfloat16" else 1)
    assert tried == [tried[0]] * 3, "nor does the time of an answer depend on it"
    assert taken == [[True], [False], [False]], "beyond the edge no record takes part"


@pytest.mark.parametrize("name", FAR)
def test_an_owner_that_refuses_by_its_own_part_tells_the_server_numbers_of_it(
    name, told_by_refusals, monkeypatch
):
    monkeypatch.setattr(StrategyHere, "with_first", lambda self, asked: asked)
    for own in FAR[name]:
        mary, reply = told_by_refusals(name, own)
        seen = own + (MOST_WEIGHT - 1 if name == "scaffold" else 0)
        assert f"has an entry of {seen:g}" in reply.error.reason
        assert not mary.entries()


def test_a_test_of_an_own_part_that_no_step_is_taken_from_is_of_the_first_state(
    told_by_refusals, monkeypatch
):
    """Counts of nothing would tell a server, test by test, whether the part lies beyond the edge."""
    heads = {}
    for own in (NEAR, MOST_WEIGHT + 3):
        seen, tested = [], WorkHere.tested

        def noting(self, job, arrays, *, seen=seen, tested=tested, **named):
            counts = tested(self, job, arrays, **named)
            seen.append((arrays[HEAD].copy(), counts))
            return counts

        with monkeypatch.context() as patch:
            patch.setattr(WorkHere, "tested", noting)
            mary, reply = told_by_refusals("local-head", own, EVALUATE)
        assert not reply.has_error(), reply.error
        assert reply.content["metrics"].keys() == {"counts", "epsilon", WEIGHT, OWN_STATE}
        [(heads[own], counts)] = seen
        assert counts.examples
        first = mary.learner.personal[HEAD]
    assert heads[NEAR][0] == pytest.approx(first[0] + NEAR)
    assert heads[MOST_WEIGHT + 3] == pytest.approx(first)


@pytest.fixture
def personal(owner, open_job_of, tmp_path):
    """An owner with a head of its own, that can be made anew."""

    def made():
        job = open_job_of(strategy={"name": "local-head"}, model={"adapter": "lora"})
        return owner(job, states=OwnStates(tmp_path / "states"))

    return made


def asked(mary, round_=1, newest=0, **named):
    records = {**counted(newest), **named.pop("records", {})}
    return mary.ask(TRAIN, round_, records=records, fixed=mary.learner.fixed_digest, **named)


HEAD = "mean_head.bias"
SENT = {
    "personal tensors": lambda sent, own: sent | own,
    "one of them": lambda sent, own: sent | {HEAD: own[HEAD]},
    "the state's names": lambda sent, own: sent | {f"apart/{n}": a for n, a in sent.items()},
    "too few": lambda sent, own: dict(list(sent.items())[1:]),
    "another shape": lambda sent, own: {n: a.reshape(-1) for n, a in sent.items()},
    "NaN": lambda sent, own: {n: a * np.float32("nan") for n, a in sent.items()},
    "infinity": lambda sent, own: {n: a + np.float32("inf") for n, a in sent.items()},
    "huge numbers": lambda sent, own: {n: a + np.float32(1e30) for n, a in sent.items()},
}


@pytest.mark.parametrize("what", SENT)
def test_a_server_sends_what_travels_and_nothing_else(what, personal, tmp_path):
    mary = personal()
    arrays = SENT[what](dict(mary.learner.initial), dict(mary.learner.personal))
    reply = asked(mary, arrays=arrays)
    assert reply.has_error()
    assert mary.entries() == []
    assert not (tmp_path / "states").exists()


def test_arrays_beside_the_model_that_no_strategy_declares_are_refused(personal):
    mary = personal()
    beside = {BESIDE: to_array_record({HEAD: mary.learner.personal[HEAD]})}
    assert "beside the model" in asked(mary, records=beside).error.reason
    assert mary.entries() == []


def test_a_disk_that_takes_nothing_tells_the_server_no_path_and_loses_no_state(personal, tmp_path):
    assert not asked(personal()).has_error()
    [record] = (tmp_path / "states").glob("*.state-keys")
    blocker = record.with_name(f".{record.name}.partial")
    blocker.mkdir()  # what is written goes there first
    reply = asked(personal(), 2, 1)
    assert reply.error.reason == "mary could not answer; its own log says why"
    blocker.rmdir()
    assert asked(personal(), 2, 1).content["metrics"][OWN_STATE] == 1


@pytest.mark.parametrize("harm", ["cut off", "nothing", "noise", "another run's"])
def test_keys_of_a_state_that_are_not_whole_are_none(harm, personal, tmp_path):
    """The state that was counted is lost then; its owner says so, and answers."""
    assert not asked(personal()).has_error()
    assert not asked(personal(), run="another").has_error()
    record, other = (of_run(tmp_path / "states", run, ".state-keys") for run in ("run", "another"))
    data = record.read_bytes()
    noise = np.random.default_rng(0).bytes(len(data))
    harmed = {"cut off": data[:-1], "nothing": b"", "noise": noise}
    record.write_bytes(harmed.get(harm, other.read_bytes()))
    reply = asked(personal(), 2, 1)
    assert reply.content["metrics"][OWN_STATE] == 0
