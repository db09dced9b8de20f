"""An owner's own state: on the disk before its update leaves, current once it was counted, once."""

import contextlib
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.client import own_state
from umbel.client.kept import KeptUpdates
from umbel.client.own_state import Own, OwnStates
from umbel.wire.arrays import to_array_record, to_arrays
from umbel.wire.requests import BESIDE, COUNTED, OWN_STATE, TRAIN

WHAT, JOB = b"w" * 32, "ab" * 32
SHAPES = {"a": (2, 3), "b": (4,)}
ZEROS = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def state_of(seed):
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def same(one, other):
    return all(one[name].tobytes() == array.tobytes() for name, array in other.items())


def begin(states, counted, shapes=SHAPES, job=JOB):
    return states.begin("run", job, shapes, counted, lambda places: True)


def propose(states, round_, seed, counted=0, what=WHAT):
    states.propose(begin(states, counted), round_, what, state_of(seed), None)


class Killed(BaseException):
    """As if the process had died here."""


@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(1, 3), st.sampled_from([None, "before", "after"])),
        min_size=1,
        max_size=6,
    ),
    dies=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_whenever_the_process_dies_the_current_state_is_of_the_newest_counted_update(
    steps, dies, tmp_path_factory
):
    """Each round: was it counted, how often is it repeated, and is there a death at which writing."""
    folder = tmp_path_factory.mktemp("states")
    write, writes = own_state.write_durably, 0
    current, counted = ZEROS, 0

    def dying(when):
        def written(*arguments, **named):
            nonlocal writes
            writes += 1
            if when == "after":
                write(*arguments, **named)
            if writes > dies:
                raise Killed
            if when == "before":
                write(*arguments, **named)

        return written

    with pytest.MonkeyPatch.context() as patch:
        for round_, (is_counted, times, when) in enumerate(steps, 1):
            if when:
                writes = 0
                patch.setattr(own_state, "write_durably", dying(when))
                with contextlib.suppress(Killed):
                    propose(OwnStates(folder), round_, round_, counted)
                patch.setattr(own_state, "write_durably", write)
            for _ in range(times):
                own = begin(OwnStates(folder), counted)
                assert own.round == counted
                assert same(own.arrays, current)
                propose(OwnStates(folder), round_, round_, counted)
            if is_counted:
                current, counted = state_of(round_), round_
        own = begin(OwnStates(folder), counted)
        assert (own.round, same(own.arrays, current)) == (counted, True)
    assert len(list(folder.glob("*.state"))) <= 2


def test_nobody_reads_it_without_its_keys(tmp_path):
    states = OwnStates(tmp_path / "states", tmp_path / "keys")
    propose(states, 1, 1)
    [file], [keys] = (list((tmp_path / name).iterdir()) for name in ("states", "keys"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in (file, keys)} == {0o600}
    assert state_of(1)["a"].tobytes()[:8] not in file.read_bytes()
    keys.unlink()
    assert begin(states, 1).round == 0
    assert same(begin(states, 1).arrays, ZEROS)


@pytest.mark.parametrize("harm", ["torn", "changed", "gone", "of another model", "of another run"])
def test_what_is_not_whole_begins_anew(harm, tmp_path):
    states = OwnStates(tmp_path)
    propose(states, 1, 1)
    [file], shapes, run = tmp_path.glob("*.state"), SHAPES, "run"
    data = file.read_bytes()
    if harm == "torn":
        file.write_bytes(data[:-1])
    elif harm == "changed":
        file.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    elif harm == "gone":
        file.unlink()
    elif harm == "of another model":
        shapes = {"a": (2, 3), "b": (5,)}
    else:
        run = "other"
    own = states.begin(run, JOB, shapes, 1, lambda places: True)
    assert own.round == 0
    assert not any(array.any() for array in own.arrays.values())


def test_an_old_copy_of_the_folder_is_not_taken_for_the_present_state(tmp_path):
    states = OwnStates(tmp_path)
    propose(states, 1, 1)
    propose(states, 2, 2, counted=1)
    copies = {path: path.read_bytes() for path in tmp_path.iterdir()}
    propose(states, 3, 3, counted=2)
    assert begin(states, 3).round == 3
    for path in tmp_path.iterdir():
        path.unlink()
    for path, data in copies.items():
        path.write_bytes(data)
    assert begin(states, 3).round == 0


def test_what_is_shown_to_be_untrue_changes_nothing(tmp_path):
    states = OwnStates(tmp_path)
    propose(states, 1, 1)
    propose(states, 2, 2, counted=1)

    def refused(places):
        raise ValueError("untrue")

    with pytest.raises(ValueError, match="untrue"):
        states.begin("run", JOB, SHAPES, 2, refused)
    assert same(begin(states, 1).arrays, state_of(1))
    # Neither does what cannot be shown, because others have left: the owner begins anew.
    assert states.begin("run", JOB, SHAPES, 2, lambda places: False).round == 0
    assert same(begin(states, 1).arrays, state_of(1))


def test_a_record_of_an_earlier_version_is_not_read_and_the_owners_log_says_so(tmp_path, caplog):
    states = OwnStates(tmp_path)
    begin(states, 0)
    assert not caplog.text, "nothing was lost where nothing was kept"
    propose(states, 1, 1)
    [record] = tmp_path.glob("*.state-keys")
    job = len(bytes.fromhex(JOB)).to_bytes(4, "big") + bytes.fromhex(JOB)
    first = record.read_bytes().replace(b" 2 _States", b" 1 _States").replace(job, b"")
    record.write_bytes(first)
    begun = begin(states, 1)
    assert (begun.round, same(begun.arrays, ZEROS)) == (0, True)
    assert f"what this owner kept of it is not read: {record} is" in caplog.text


def test_a_disk_that_takes_nothing_costs_the_state_and_not_the_update(tmp_path, caplog):
    states = OwnStates(tmp_path / "states")
    states.propose(Own("run", JOB, 0, ZEROS), 1, WHAT, state_of(1), None)
    (tmp_path / "states").rename(tmp_path / "away")
    (tmp_path / "states").write_text("a file")
    states.propose(Own("run", JOB, 0, ZEROS), 2, WHAT, state_of(2), None)
    assert "is not kept" in caplog.text


def test_states_of_runs_that_nobody_ended_are_deleted_after_a_month(tmp_path):
    states = OwnStates(tmp_path)
    propose(states, 1, 1)
    for path in tmp_path.iterdir():
        old = path.stat().st_mtime - 31 * 24 * 3600
        os.utime(path, (old, old))
    states.propose(Own("another", JOB, 0, ZEROS), 1, WHAT, state_of(2), None)
    assert begin(states, 1).round == 0
    assert len(list(tmp_path.iterdir())) == 2
    states.close("another")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def mary(owner, open_job_of, tmp_path):
    """An owner under SCAFFOLD, in a job whose noise she adds."""
    job = open_job_of(
        strategy={"name": "scaffold"},
        training={"optimizer": "sgd", "learning_rate": 0.5},
        privacy={"spare_rounds": 2},
    )

    def made(states=OwnStates):
        return owner(job, kept=KeptUpdates(tmp_path / "kept"), states=states(tmp_path / "states"))

    return made


def ask(mary, round_, attempt, counted, variate=0.0):
    beside = {name: np.full_like(array, variate) for name, array in mary.learner.initial.items()}
    reply = mary.ask(
        TRAIN, round_, attempt, config={"none": 0}, records={
            BESIDE: to_array_record(beside), COUNTED: {"round": counted, "shown": b""}
        },
    )  # fmt: skip
    assert not reply.has_error(), reply.error
    return to_arrays(reply.content["arrays"]), reply.content["metrics"][OWN_STATE]


def state_here(mary, tmp_path, update):
    shapes = {name: array.shape for name, array in update.items()}
    return begin(OwnStates(tmp_path / "states"), 1, shapes, mary().job.digest())


class DiesProposing(OwnStates):
    def _propose(self, *arguments):
        raise Killed


def test_an_update_that_is_sent_again_proposes_the_very_same_state(mary, tmp_path):
    first = mary()
    update, told = ask(first, 1, 0, 0)
    again, _ = ask(mary(), 1, 1, 0)
    assert told == 0
    assert same(again, update)
    rates = 2 * 0.5
    for _ in range(2):
        found, told = ask(mary(), 2, 0, 1)
        own = state_here(mary, tmp_path, update)
        assert told == own.round == 1
        assert all(own.arrays[n] == pytest.approx(-a / rates) for n, a in update.items())
    assert len(first.entries()) == 2
    # With another state it is another release: trained anew, and charged.
    other, told = ask(mary(), 2, 1, 0)
    assert told == 0
    assert not same(other, found)
    assert len(first.entries()) == 3


def test_who_dies_between_the_update_and_its_state_sends_both_afterwards(mary, tmp_path):
    with pytest.raises(Killed):
        ask(mary(DiesProposing), 1, 0, 0)
    assert not list((tmp_path / "states").glob("*"))
    update, _ = ask(mary(), 1, 1, 0)
    assert len(mary().entries()) == 1, "it was kept before, and is no second release"
    own = state_here(mary, tmp_path, update)
    assert own.round == 1
    assert all(own.arrays[n] == pytest.approx(-a) for n, a in update.items())


def test_a_round_that_counts_itself_or_a_later_one_is_refused(mary):
    beside = to_array_record(mary().learner.initial)
    for counted in (1, 2, -1, "1"):
        records = {BESIDE: beside, COUNTED: {"round": counted, "shown": b""}}
        assert mary().ask(TRAIN, 1, records=records).has_error()
    assert mary().ask(TRAIN, 1).has_error(), "nothing came beside the model"
    assert mary().entries() == []


@pytest.mark.parametrize("kept", [0.0, -9e3])
def test_corrections_that_add_up_to_weights_nobody_would_accept_are_refused_uncharged(
    mary, tmp_path, kept
):
    """Each round's broadcast may be within bounds, and the owner's state, which follows from them, too."""
    weights = mary().learner.initial
    before = Own(
        "run",
        mary().job.digest(),
        0,
        {name: np.zeros_like(array) for name, array in weights.items()},
    )
    own = {name: np.full_like(array, kept) for name, array in weights.items()}
    OwnStates(tmp_path / "states").propose(before, 1, WHAT, own, None)
    beside = to_array_record({name: np.full_like(a, 9e3) for name, a in weights.items()})
    records = {BESIDE: beside, COUNTED: {"round": 1, "shown": b""}}
    reply = mary().ask(TRAIN, 2, config={"none": 0}, records=records)
    assert reply.has_error()
    assert "not accepted for training under privacy" in reply.error.reason
    assert mary().entries() == []


def test_what_is_the_owners_own_outlives_its_run_and_a_server_that_says_nothing(tmp_path):
    states, lasting = OwnStates(tmp_path / "states"), OwnStates(tmp_path / "own", lasting=True)
    assert not states.hand_over("run", JOB, 0, lambda places: True, lasting)
    propose(states, 1, 1)
    propose(states, 2, 2, counted=1)
    with pytest.raises(ValueError, match="untrue"):
        states.hand_over("run", JOB, 2, lambda places: _untrue(), lasting)
    # Withheld: the last that is known to have been counted.
    assert states.hand_over("run", JOB, 0, lambda places: True, lasting)
    assert same(lasting.current("run", JOB, SHAPES).arrays, state_of(1))
    assert not list((tmp_path / "states").iterdir())
    assert not states.hand_over("run", JOB, 2, lambda places: True, lasting), "once"
    for path in (tmp_path / "own").iterdir():
        old = path.stat().st_mtime - 400 * 24 * 3600
        os.utime(path, (old, old))
    lasting.propose(Own("another", JOB, 0, ZEROS), 1, WHAT, state_of(2), None)
    assert lasting.current("run", JOB, SHAPES) is not None


def _untrue():
    raise ValueError("untrue")


def test_a_crash_in_the_midst_of_handing_over_loses_nothing(tmp_path, monkeypatch):
    states, lasting = OwnStates(tmp_path / "states"), OwnStates(tmp_path / "own", lasting=True)
    propose(states, 1, 1)
    write, left = own_state.write_durably, [0]

    def dying(*arguments, **named):
        if not left[0]:
            raise Killed
        left[0] -= 1
        write(*arguments, **named)

    for writes in range(3):
        left[0] = writes
        monkeypatch.setattr(own_state, "write_durably", dying)
        with contextlib.suppress(Killed):
            states.hand_over("run", JOB, 1, lambda places: True, lasting)
    monkeypatch.setattr(own_state, "write_durably", write)
    states.hand_over("run", JOB, 1, lambda places: True, lasting)
    assert same(lasting.current("run", JOB, SHAPES).arrays, state_of(1))
