"""A consortium of real processes on this machine, any of which a test can kill, freeze or cut off.

The processes are those that an operator and data owners start; they talk TLS over loopback. Nothing
here waits for a time to pass: every wait is for a condition, and ends in a failure that shows logs.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from .uploads import Uploads

PATIENCE = float(os.environ.get("UMBEL_PATIENCE", "600"))
_MODULES = {
    "link": "umbel.flower.link",
    "coordinator": "umbel.server.coordinator",
    "node": "umbel.flower.node",
}


@pytest.fixture(scope="session")
def deployed_job(job_of):
    """A small job as it runs between machines: private, encrypted, three owners, two rounds."""

    def build(owners=3, base="bert", **sections):
        plain = {
            "privacy": {"limit": 1e6},
            "simulation": {"partition": "iid", "clients": owners},
            "training": {"rounds": 2},
            "encryption": {"deadline": 20.0},
            "cohort": {"deadline": 30.0, "retries": 4},
        }
        for name, section in plain.items():
            sections[name] = {**section, **sections.get(name, {})}
        return job_of(base, **sections)

    return build


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The adapter of an undisturbed run of a job, as a simulation makes it; found once for each job."""
    from umbel.simulations.engine import Options, simulate

    found = {}

    def digest(job):
        if job.digest() not in found:
            folder = tmp_path_factory.mktemp("simulated") / "run"
            run = simulate(job, Options(folder, reproducible=True))
            found[job.digest()] = run.read_json("result.json")["adapter_sha256"]
        return found[job.digest()]

    return digest


@pytest.fixture
def deploy(tmp_path):
    """Found a consortium for a job, without starting anything; all that was started ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda job, **named: stack.enter_context(deployment(job, tmp_path, **named))


@pytest.fixture
def deploy_in():
    """The same in a given folder."""
    with contextlib.ExitStack() as stack:
        yield lambda folder, job: stack.enter_context(deployment(job, folder))


@pytest.fixture(scope="module")
def standing(deployed_job, tmp_path_factory, request):
    """A consortium that stays for all tests of a module, each with a run of its own of ROUNDS."""
    job = deployed_job(training={"rounds": getattr(request.module, "ROUNDS", 2)})
    with deployment(job, tmp_path_factory.mktemp("standing")) as found:
        yield found.start()


@contextlib.contextmanager
def deployment(job, folder, **named):
    """The deployment of a job below a folder, ended with the block."""
    found = Deployment(job, folder, **named)
    try:
        yield found
    finally:
        found.end()


class Deployment:
    """The processes of one consortium: "server", and an agent for each owner, by its name."""

    def __init__(self, job, folder, **named):
        from umbel.run.store import Store
        from umbel.simulations.rehearsal import set_up

        self.folder = folder
        self.stage = set_up(job, folder, **named)
        self.job = self.stage.job
        self.consortium = self.stage.consortium
        self.store = Store(self.consortium.database)
        self.owners = {home.name: home for home in self.stage.owners}
        self.processes = {}
        self.host = "127.0.0.1"
        """Address that the server listens on."""
        self.prefixes = defaultdict(list)
        """Command before a process's own, such as the network namespace that it runs in."""
        self.environments = defaultdict(dict)
        self.uploads = Uploads(self.owners.values())

    # What runs.

    def start(self, *names):
        """Start the server or agents, those that are up already excepted; all of them by default."""
        from umbel.simulations.rehearsal import start

        for name in names or ("server", *self.owners):
            process = self.processes.get(name)
            if process is not None and process.poll() is None:
                continue
            command = self.command(name)
            with _environment(self.environments[name]):
                self.processes[name] = start(self.prefixes[name] + command, self.log_of(name))
        return self

    def command(self, name):
        """What an operator or an owner types: also paths that start where they are."""
        if name != "server":
            folder = self.owners[name].path
            words = self.stage.agent(self.owners[name])
        else:
            folder = self.consortium.path
            words = [self.host if w == "127.0.0.1" else w for w in self.stage.server()]
        return [os.path.relpath(folder) if word == str(folder) else word for word in words]

    def stop(self, *names):
        """End the server or agents as an operator would."""
        for name in names:
            self.processes[name].terminate()
        for name in names:
            self.processes[name].wait(60)

    def end(self):
        self.uploads.close()
        running = [name for name, process in self.processes.items() if process.poll() is None]
        for name in running:
            with contextlib.suppress(ProcessLookupError):
                self.processes[name].send_signal(signal.SIGCONT)
            self.processes[name].terminate()
        for name in running:
            try:
                self.processes[name].wait(30)
            except subprocess.TimeoutExpired:
                self.processes[name].kill()
                self.processes[name].wait(600)

    def pid(self, kind, owner=None):
        """The process of a kind: server, link, coordinator, or an owner's agent or node."""
        parent = self.processes[owner or "server"].pid
        found = parent
        if kind in _MODULES:
            found = eventually(lambda: _child(parent, _MODULES[kind]), f"a {kind}", self.logs)
        return found

    def kill(self, kind, owner=None):
        pid = self.pid(kind, owner)
        os.kill(pid, signal.SIGKILL)
        if kind in ("server", "agent"):
            self.processes[owner or "server"].wait(600)

    def freeze(self, kind, owner=None):
        os.kill(self.pid(kind, owner), signal.SIGSTOP)

    def thaw(self, kind, owner=None):
        os.kill(self.pid(kind, owner), signal.SIGCONT)

    # What people see.

    def log_of(self, name):
        return self.folder / f"{name}.log"

    def said(self, name, pattern):
        """Wait until the server, an agent, or (by a run's name) a coordinator has written this."""
        path = self.log_of(name) if name in self.processes else self.consortium.runs / name / "log"
        return eventually(lambda: re.search(pattern, _text(path)), f"{pattern!r}", self.logs)

    def umbel(self, *arguments):
        """Output of a command of Umbel, which must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "umbel.cli", *map(str, arguments)],
            env=os.environ | {"UMBEL_CONSORTIUM": str(self.consortium.path)},
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def logs(self):
        """The ends of all logs, for a test that fails."""
        paths = [*self.folder.glob("*.log"), *self.consortium.runs.glob("*/log")]
        paths += [self.consortium.path / "link.log", *self.folder.glob("owners/*/node/log")]
        found = [(path, _text(path)) for path in paths if not path.parent.is_symlink()]
        return "\n".join(f"--- {path}\n{text[-3000:]}" for path, text in found if text)

    # What runs do.

    def place(self, **named):
        """Give the server the job; the run's name."""
        return self.stage.place(**named).path.name

    def reaches(self, run, stage):
        """Wait until a run's coordinator has begun a stage, such as "train 2"."""
        return self.said(run, rf" {stage}: \d+ asked")

    def comes_to(self, run, stage, stopped_by):
        """Wait until a run begins a stage; if it stops before, for this reason, its operator resumes it."""
        log = self.consortium.runs / run / "log"

        def begun():
            return re.search(rf" {stage}: \d+ asked", _text(log))

        eventually(lambda: begun() or self.store.run(run).over, stage, self.logs)
        while not begun():
            self.resumed(run, stopped_by)
            eventually(lambda: begun() or self.store.run(run).over, stage, self.logs)

    def resumed(self, run, reason):
        """Go on with a run that has stopped for a reason, as its operator does."""
        row = self.over(run)
        assert re.search(reason, row.reason), f"{row.status}: {row.reason}"
        self.umbel("resume", run)

    def summing(self, run):
        """Wait until a sum of an asynchronous run is in progress; its members."""
        path = self.consortium.runs / run / "sums.json"
        text = eventually(lambda: _text(path), "a sum in progress", self.logs)
        return sorted(json.loads(text)[0]["versions"])

    def opened_first(self, run, number):
        """Wait until the first of a round's two sums is known; the file that is there until both are."""
        path = self.consortium.runs / run / "first-sum.safetensors"
        of_round = f'round\\": {number},'
        eventually(lambda: of_round in _text(path), f"a first sum of round {number}", self.logs)
        return path

    def over(self, run):
        """Wait until a run is over; its row."""
        return eventually(
            lambda: (row := self.store.run(run)).over and row, f"{run} to be over", self.logs
        )

    def reach_status(self, run, status):
        """Wait until a run has this status."""
        return eventually(lambda: self.store.run(run).status == status, status, self.logs)

    def eventually_has(self, owner):
        """Wait until an owner has a model."""
        return eventually(lambda: self.owners[owner].models.list(), f"{owner}'s model", self.logs)

    def finished(self, run):
        """Wait until a run is finished; its result."""
        row = self.over(run)
        assert row.status == "finished", f"{row.reason}\n{self.logs()}"
        return self.result(run)

    def result(self, run):
        from umbel.run.run_folder import RunFolder

        return RunFolder.open(self.consortium.runs / run).read_json("result.json")

    def events(self, run, kind):
        return [event for _, _, event in self.store.events(run) if event["event"] == kind]

    def round(self, run, number):
        """Wait until a round was summed; its event."""

        def summed():
            return next(
                (
                    event
                    for event in self.events(run, "round")
                    if event["round"] == number and event["aggregated"]
                ),
                None,
            )

        return eventually(summed, f"round {number} of {run}", self.logs)

    def charged(self, run):
        """How often each round of a run, and each released "loss N", was charged, by owner; every ledger is
        whole."""
        from umbel.privacy.ledger.ledger import Ledger

        found = {}
        for name, home in self.owners.items():
            found[name] = Counter()
            if not home.ledger.exists():
                continue
            with Ledger(home.ledger) as ledger:
                ledger.verify()
                for entry in ledger.entries():
                    id_, round_, attempt = entry.key.split("/")
                    if id_ == self.store.run(run).id and not entry.is_test:
                        assert attempt == "0"
                        assert entry.replay
                        found[name][int(round_) if entry.is_round else round_] += 1
        return found

    def writes(self, owner, what, run, stage):
        """Wait until an owner writes to its "ledger", "journals" or "states", or (it had) a stage is over."""
        home, log = self.owners[owner], self.consortium.runs / run / "log"
        before = _stamps(home, what)

        def done():
            since = re.split(rf" {stage}: \d+ asked", _text(log))[-1]
            over = re.search(r": \d+ asked", since) or self.store.run(run).over
            return over or _stamps(home, what) != before

        eventually(done, f"{owner} to write its {what}", self.logs)


def eventually(condition, what, logs=lambda: ""):
    """Wait until a condition holds; what it gave. Looking takes a tenth of a processor at most."""
    end = time.monotonic() + PATIENCE
    while (begun := time.monotonic()) < end:
        found = condition()
        if found:
            return found
        time.sleep(max(0.01, 9 * (time.monotonic() - begun)))
    raise AssertionError(f"waited {PATIENCE:.0f} s in vain for {what}\n{logs()}")


def _stamps(home, what):
    places = {
        "ledger": "ledger.sqlite", "journals": "journals/*/journal-*", "states": "states/*.state",
    }  # fmt: skip
    return {str(p): p.stat().st_mtime_ns for p in home.path.glob(places[what]) if p.exists()}


def _child(parent, module):
    """The process with a module's name among the children of another."""
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, children.read_text().split()):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if module in command:
                    return pid
    return None


def _text(path):
    return path.read_text(errors="replace") if path.exists() else ""


@contextlib.contextmanager
def _environment(values):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield
