"""Every way in which a simulation stops or dies, and that it goes on to the same model."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from umbel.certificate.check import verify
from umbel.errors import Interrupted, RunFolderError, UmbelError
from umbel.learning.predict import Predictor
from umbel.privacy.ledger.ledger import Ledger
from umbel.server.run import Silent
from umbel.simulations.engine import Options, plan_job, resume, simulate
from umbel.simulations.issuer import run_key

from .endings import SITES, At, kill_this_process, press_ctrl_c, result, sha, spent


@pytest.fixture(scope="module")
def _undisturbed(tmp_path_factory):
    """The hash that a job ends with when nothing happens to it; found once for each job."""
    found = {}

    def ends_with(job):
        if job.digest() not in found:
            options = Options(tmp_path_factory.mktemp("undisturbed") / "run", 1, reproducible=True)
            found[job.digest()] = sha(simulate(job, options))
        return found[job.digest()]

    return ends_with


@pytest.fixture
def undisturbed(quick, _undisturbed):
    return lambda unit="none", **sections: _undisturbed(quick(unit, **sections))


@pytest.mark.parametrize("round_", [0, 1, 2])
def test_a_run_that_is_stopped_after_any_round_goes_on_to_the_same_model(
    round_, quick, start, undisturbed, tmp_path
):
    moment = f"train {round_}" if round_ else "prepare"
    said = f"after round {round_} of 3" if round_ else "before the first round"
    with pytest.raises(Interrupted, match=rf"{said}\. Resume it with --resume --run-dir") as caught:
        start(quick("example"), listener=At(moment, press_ctrl_c))
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sha(resume(tmp_path / "run", 1)) == undisturbed("example")


def test_ctrl_c_in_the_last_round_lets_the_run_finish(quick, start, undisturbed):
    folder = start(quick(), listener=At("train 3", press_ctrl_c))
    assert sha(folder) == undisturbed()


def test_a_second_ctrl_c_stops_at_once(quick, start, undisturbed, tmp_path):
    def twice():
        press_ctrl_c()
        press_ctrl_c()

    how = r"--resume --run-dir .*run, or in Python with umbel\.Run\.open\('.*run'\)\.resume\(\)$"
    with pytest.raises(Interrupted, match=rf"rounds are kept\. Resume it with {how}"):
        start(quick(), listener=At("train 2", twice))
    assert sha(resume(tmp_path / "run", 1)) == undisturbed()


MOMENTS = [
    "prepare",
    "ready written",
    "evaluation 0 written",
    "train 1",
    "round 1 written",
    "train 2",
    "round 2 written",
    "round 3 written",
    "evaluate 3",
    "evaluation 3 written",
    "compare",
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_model(
    moment, quick, start, undisturbed, tmp_path, forked
):
    often = {"every": 1}
    job = quick(
        "example", strategy={"name": "fedadam"}, simulation={"alone": True}, evaluation=often
    )
    code = forked(lambda: start(job, listener=At(moment, kill_this_process)))
    assert code == -signal.SIGKILL
    folder = resume(tmp_path / "run", 1)
    assert sha(folder) == undisturbed("example", strategy={"name": "fedadam"})
    assert result(folder)["privacy"]["epsilon"] <= 8


@pytest.mark.parametrize("name", ["plan.json", "adapter", "result.json"])
def test_a_run_that_is_killed_while_it_writes_goes_on_to_the_same_model(
    name, quick, start, undisturbed, tmp_path, forked, monkeypatch
):
    """Killed just before the rename: the temporary file lies there, the file does not."""
    replace = os.replace

    def die(source, target):
        if Path(target).name == name:
            kill_this_process()
        replace(source, target)

    monkeypatch.setattr(os, "replace", die)
    assert forked(lambda: start(quick())) == -signal.SIGKILL
    monkeypatch.undo()
    assert not (tmp_path / "run" / name).exists()
    folder = resume(tmp_path / "run", 1)
    assert sha(folder) == undisturbed()
    assert json.loads((folder.path / "plan.json").read_text())["rounds"] == 3
    assert sum(event["event"] == "partition" for event in folder.read_events()) == 1


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    quick, start, undisturbed, tmp_path
):
    with pytest.raises(Interrupted):
        start(quick("example"), listener=At("train 2", press_ctrl_c))
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert newest.name.startswith("round-00002")
    os.truncate(newest, newest.stat().st_size // 2)
    assert sha(resume(tmp_path / "run", 1)) == undisturbed("example")


def test_a_run_whose_checkpoints_are_all_gone_does_not_start_over_in_silence(
    quick, start, tmp_path
):
    from umbel.errors import CheckpointError

    with pytest.raises(Interrupted):
        start(quick(), listener=At("train 2", press_ctrl_c))
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        os.truncate(path, 10)
    with pytest.raises(CheckpointError, match="damaged"):
        resume(tmp_path / "run", 1)


def test_a_finished_run_is_not_resumed(quick, start, tmp_path):
    start(quick())
    with pytest.raises(RunFolderError, match="is finished"):
        resume(tmp_path / "run", 1)


def test_a_run_of_another_version_is_not_resumed(quick, start, tmp_path):
    with pytest.raises(Interrupted):
        start(quick(), listener=At("train 1", press_ctrl_c))
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "umbel_version": "0.0.1"}))
    with pytest.raises(RunFolderError, match=r"started with Umbel 0\.0\.1, but this is 0\.1\.0"):
        resume(tmp_path / "run", 1)


def test_another_job_than_the_runs_is_not_resumed(quick, start, tmp_path):
    with pytest.raises(Interrupted):
        start(quick(), listener=At("train 1", press_ctrl_c))
    with pytest.raises(RunFolderError, match="another job"):
        resume(tmp_path / "run", 1, expected=quick(training={"rounds": 9}))
    resume(tmp_path / "run", 1, expected=quick())


@pytest.mark.parametrize("moment", ["train 2", "open 2", "round 2 written"])
def test_a_private_run_that_was_killed_goes_on_and_pays_for_no_round_twice(
    moment, quick, start, tmp_path, forked
):
    job = quick("example", privacy={"epsilon": 2.0, "spare_rounds": 1})
    killed = At(moment, kill_this_process)
    assert forked(lambda: start(job, reproducible=False, listener=killed)) == -signal.SIGKILL
    folder = resume(tmp_path / "run", 1)
    for name, epsilon in spent(folder).items():
        assert result(folder)["privacy"]["clients"][name] == epsilon <= 2.0
        with Ledger(folder.path / "ledgers" / f"{name}.sqlite") as ledger:
            mine = ledger.entries_of(folder.read_json("run.json")["id"])
            assert len([entry for entry in mine if not entry.is_test]) == 3


def lose_what_is_kept(folder):
    """As an owner's broken disk would: the journals are gone, and with them every update's key."""
    for path in [*folder.glob("owners/*/journals/*/*"), *folder.glob("owners/*/kept/*")]:
        path.unlink()


def test_a_run_that_outlives_its_spare_rounds_ends_early_with_its_last_summed_model(
    quick, start, tmp_path, forked
):
    job = quick("example", privacy={"epsilon": 2.0}, evaluation={"counts": "off"})
    path = tmp_path / "run"
    killed = At("round 2 written", kill_this_process)
    assert forked(lambda: start(job, reproducible=False, listener=killed)) == -signal.SIGKILL
    lose_what_is_kept(path)
    killed = At("round 2 written", kill_this_process)
    assert forked(lambda: resume(path, 1, killed)) == -signal.SIGKILL
    lose_what_is_kept(path)
    folder = resume(path, 1)
    found = result(folder)
    assert (found["rounds"], found["ended"]["cause"]) == (2, "owners")
    assert "repeated too often" in found["ended"]["reason"]
    assert found["kept"]["ended_early"]
    verdict = verify(path)
    assert verdict.valid, verdict.findings
    certified = verdict.certificate
    assert (certified.rounds.planned, certified.rounds.done) == (3, 2)
    assert certified.rounds.ended == "too few owners were able to continue"
    assert certified.guarantee.epsilon_spent <= 2.0
    assert max(spent(folder).values()) <= certified.guarantee.epsilon_spent
    text = (path / "adapter" / "README.md").read_text()
    assert "2 of 3 planned rounds (too few owners were able to continue)" in text
    assert "not tested this model, because training ended early" in text
    assert len(list(Predictor.load(path, "cpu").predict(["a good film"]))) == 1
    warned = [event for event in folder.read_events() if event["event"] == "spare"]
    assert [event["spares"] for event in warned] == [2]  # the first died with its process
    assert "budgets do not reach the last 1 round: the run ends early" in warned[0]["text"]
    changed = certified.model_copy(
        update={"rounds": certified.rounds.model_copy(update={"ended": None})}
    )
    whole = changed.signed_by(run_key(path))
    (path / "certificate.json").write_bytes(whole.to_bytes())
    assert {f.what for f in verify(path).findings if f.holds is False} == {"rounds", "result.json"}


def processes():
    """Parent, session and pid of every process that is not a zombie."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                state, parent, _, session = (
                    (path / "stat").read_text().rpartition(")")[2].split()[:4]
                )
            except (OSError, ValueError):
                continue
            if state != "Z":
                yield int(parent), int(session), int(path.name)


def workers_of(process):
    """The forks of a process's fork server: its grandchildren."""
    found = list(processes())
    children = {pid for parent, _, pid in found if parent == process}
    return [pid for parent, _, pid in found if parent in children]


def in_session(session):
    return [pid for _, of, pid in processes() if of == session]


def kill_a_worker():
    os.kill(workers_of(os.getpid())[0], signal.SIGKILL)


def test_a_worker_that_dies_stops_the_run_clearly_and_the_run_goes_on_later(
    quick, start, undisturbed, tmp_path
):
    with pytest.raises(UmbelError, match="A worker process died .*--resume"):
        start(quick(), workers=2, listener=At("train 2", kill_a_worker))
    assert sha(resume(tmp_path / "run", 2)) == undisturbed()


class WhileOneTrains(Silent):
    """Does something in round 2 once all owners but one, whose journal is kept busy, have answered."""

    def __init__(self, owner, action):
        self.owner, self.action, self.training, self.done = owner, action, False, False

    def started(self, what, total):
        self.training = what == "train 2" and not self.done
        if self.training:
            [lock] = self.owner.glob("journals/*/lock")
            self.lock = os.open(lock, os.O_WRONLY)
            fcntl.flock(self.lock, fcntl.LOCK_EX)

    def advanced(self, done):
        if self.training and done == len(SITES) - 1:
            self.training, self.done = False, True
            self.action()
            os.close(self.lock)


def test_a_round_is_not_closed_without_an_owner_whose_worker_died(
    quick, start, undisturbed, tmp_path
):
    """Three of four answers would do for a sum; a run without a stop has all four."""
    job = quick()
    assert plan_job(job)[0].minimum == len(SITES) - 1
    killed = WhileOneTrains(tmp_path / "run" / "owners" / SITES[-1], kill_a_worker)
    with pytest.raises(UmbelError, match="A worker process died"):
        start(job, workers=2, listener=killed)
    assert killed.done
    folder = resume(tmp_path / "run", 2)
    assert sha(folder) == undisturbed()
    rounds = [event for event in folder.read_events() if event["event"] == "round"]
    assert [(event["clients"], event["failed"]) for event in rounds] == [(SITES, {})] * 3


def test_a_finished_run_leaves_no_worker_behind(quick, start):
    start(quick(), workers=2)
    assert workers_of(os.getpid()) == []


SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from umbel.errors import UmbelError
from umbel.job import Job
from umbel.server.run import Silent
from umbel.simulations.engine import Options, simulate

class Listener(Silent):
    def started(self, what, total):
        if what == "train 2":
            {action}

if __name__ == "__main__":
    job = Job.build(json.loads(sys.argv[1]))
    try:
        simulate(job, Options(Path(sys.argv[2]), workers=2, reproducible=True), Listener())
    except UmbelError as error:
        print(error)
        sys.exit(error.exit_code)
"""


@pytest.fixture
def with_workers(tmp_path):
    """Run a job with two workers in a session of its own; something happens in round 2."""

    def run(job, action):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(action=action))
        process = subprocess.Popen(
            [sys.executable, script, job.to_json(), tmp_path / "run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        out, err = process.communicate(timeout=600)
        return process, out, err

    return run


def test_a_killed_process_leaves_no_orphans_and_the_run_goes_on_to_the_same_model(
    quick, undisturbed, tmp_path, with_workers
):
    process, _, err = with_workers(quick(), "os.kill(os.getpid(), signal.SIGKILL)")
    assert process.returncode == -signal.SIGKILL, err
    end = time.monotonic() + 600
    while in_session(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert in_session(process.pid) == []
    assert sha(resume(tmp_path / "run", 1)) == undisturbed()


def test_ctrl_c_in_a_terminal_finishes_the_round_in_all_processes(
    quick, undisturbed, tmp_path, with_workers
):
    """The terminal sends the signal to the whole process group, workers and all."""
    process, out, err = with_workers(quick(), "os.killpg(0, signal.SIGINT)")
    assert process.returncode == 130, err
    assert "Stopped after round 2 of 3" in out
    assert "Traceback" not in err
    assert in_session(process.pid) == []
    assert sha(resume(tmp_path / "run", 1)) == undisturbed()
