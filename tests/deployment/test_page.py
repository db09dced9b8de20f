"""docs/deploy.md, command by command, from an empty folder: what it says is what works."""

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path

import pytest
import tomli_w

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
OWNERS = ("st-mary", "st-john", "st-anne")
FOREGROUND = ("umbel server", "umbel client run", "umbel logs")
ELSEWHERE = {
    r"pip install": "the tests run in what was installed",
    r"docker |export UMBEL_(UID|OWNER|CONSORTIUM=\$)": "containers: tests/deploy",
    r"kubectl |helm ": "charts: tests/deploy",
    r"HF_HOME=": "a model hub, or the agent that runs already",
    r"umbel (consortium split|sign|take)|umbel consortium admit hospitals-keys": (
        "keys apart from the server: tests/server"
    ),
    r"umbel client own-model": "models of an owner's own: tests/simulations/test_every_strategy.py",
}
"""Commands of the page that are not run here, and why."""


def commands():
    """Each command of the page's bash blocks, in order, without its comment."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+# .*", "", line).strip()
            if command and not command.startswith("#"):
                found.append(re.sub(r"\s+", " ", command))
    return found


def elsewhere(command):
    return any(re.match(pattern, command) for pattern in ELSEWHERE)


def test_the_page_has_commands_and_most_of_them_are_tried_here():
    here = [command for command in commands() if not elsewhere(command)]
    for word in ("create", "server", "init", "admit", "check", "run", "status", "stop", "resume",
                 "finish", "approve", "models", "ledger", "unit"):  # fmt: skip
        assert any(word in command.split() for command in here), word
    assert all(any(re.match(p, command) for command in commands()) for p in ELSEWHERE)


def test_the_page_shows_what_create_prints(umbel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = re.search(r"^Made the consortium.*?(?=^```)", PAGE.read_text(), re.M | re.S)[0]
    pattern = re.escape(shown).replace(re.escape("1f0c 9a27 …"), "[0-9a-f ]+")
    _, printed, _ = umbel("consortium", "create", "hospitals", "--host", "umbel.example.org")
    assert re.fullmatch(pattern, printed)


class Reader:
    """Somebody who does what the page says, as the operator and as three owners, in one folder."""

    def __init__(self, folder, rows):
        self.folder, self.port = folder, None
        self.running = {}
        self.names = {}
        (folder / "bin").mkdir()
        for name, words in (("umbel", " -m umbel.cli"), ("python", "")):
            shim = folder / "bin" / name
            shim.write_text(f'#!/bin/sh\nexec {sys.executable}{words} "$@"\n')
            shim.chmod(0o755)
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        # Nothing of this suite's own settings.
        kept = {k: v for k, v in os.environ.items() if not k.startswith("UMBEL_")}
        self.environment = {**kept, "PATH": path, "COLUMNS": "200"}
        for number, owner in enumerate(OWNERS):
            with (folder / f"{owner}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["review", "stars"])
                writer.writerows((row["text"], row["label"]) for row in rows[number::3])

    def follow(self, command):
        """Do what a command of the page says; an owner's, each owner."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.environment[name] = value
            return
        for owner in OWNERS if "st-mary" in command else ("operator",):
            self.do(owner, command.replace("st-mary", owner))

    def do(self, who, command):
        for name, value in (
            ("--host umbel.example.org", f"--host 127.0.0.1 --port {self.port}"),
            ("/srv/reviews.csv", f"{who}.csv"),
            *self.names.items(),
        ):
            command = command.replace(name, value)
        if command.startswith("umbel client init"):
            command += " --yes"  # what is found is confirmed on a terminal, and here is none
        if command.startswith("umbel consortium admit"):
            command += f' --fingerprint "{self.read_out(who)}"'
        if command.startswith(FOREGROUND):
            self.begin(who, command)
            return None
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.folder, env=self.environment, text=True, input="y\ny\n",
            capture_output=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def read_out(self, owner):
        """By telephone: what the owner's own machine shows."""
        done = subprocess.run(
            ["umbel", "client", "check", owner], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=3600,
        )  # fmt: skip
        return re.search(r"fingerprint to give to the operator: ([0-9a-f ]+)", done.stdout)[
            1
        ].strip()

    def begin(self, who, command):
        with (self.folder / f"{who}-{len(self.running)}.log").open("wb") as log:
            self.running[who, command] = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def end(self, *which):
        chosen = which or list(self.running)
        for key in chosen:
            self.running[key].terminate()
        for key in chosen:
            try:
                self.running.pop(key).wait(60)
            except subprocess.TimeoutExpired:
                self.running[key].kill()

    def until(self, what, condition):
        end = time.monotonic() + 600
        while not (found := condition()):
            assert time.monotonic() < end, f"waited in vain for {what}\n{self.logs()}"
            time.sleep(0.2)
        return found

    def status(self, pattern):
        """Wait until the run's status says this."""
        return self.until(
            pattern, lambda: re.search(pattern, self.do("operator", "umbel status RUN"))
        )

    def logs(self):
        return "\n".join(
            f"--- {p.name}\n{p.read_text()[-1500:]}" for p in self.folder.glob("*.log")
        )


@pytest.fixture
def reader(reviews):
    """In a folder outside of those for temporary files, of which a service has one of its own."""
    parent = "/srv" if os.access("/srv", os.W_OK) else None
    if parent is None:
        pytest.skip("/srv cannot be written, and a unit is not printed for a folder below /tmp")
    folder = Path(tempfile.mkdtemp(prefix="umbel-page-", dir=parent))
    found = Reader(folder, reviews)
    yield found
    found.end()
    shutil.rmtree(folder)


@pytest.mark.faults
def test_the_page_works_as_written(reader, deployed_job, tiny):
    from umbel.client.home import Home
    from umbel.storage.processes import free_port

    reader.port = free_port()
    shutil.copytree(tiny("bert"), reader.folder / "model")
    made = deployed_job(
        base=str(reader.folder / "model"), training={"rounds": 30},
        privacy={"epsilon": 2.0, "delta": 1e-5},
    ).model_dump(mode="json", exclude_none=True)  # fmt: skip
    made["privacy"].pop("limit", None)
    (reader.folder / "reviews.toml").write_text(tomli_w.dumps(made))

    for command in filter(lambda command: not elsewhere(command), commands()):
        words = command.split()
        if words[:2] == ["umbel", "status"]:
            reader.status(r"round +[1-9]")
        if words[:2] == ["umbel", "resume"]:
            reader.status("stopped")
        if words[:2] == ["umbel", "finish"]:
            reader.status("running")
        if words[:3] == ["umbel", "client", "jobs"]:
            reader.status("finished early")
            asks_first(reader)
        if words[:3] == ["umbel", "client", "approve"]:
            reader.do("st-mary", command)
            continue
        if words[:3] == ["umbel", "client", "models"]:
            reader.status(r"round +[1-9]")
            reader.do("operator", "umbel finish RUN")
            reader.status("finished early")
        if words[:2] == ["umbel", "run"]:
            out = reader.do("operator", command)
            reader.names["RUN"] = name_of_run(out)
            continue
        reader.follow(command)
        if "create" in words:
            # "Send hospitals/consortium.json to every owner."
            shutil.copy(reader.folder / "hospitals" / "consortium.json", reader.folder)
        if words[:2] == ["umbel", "server"]:
            reader.until("the server", lambda: "serves on port" in reader.logs())
    for owner in OWNERS:
        assert len(Home.open(reader.folder / owner).models.list()) == 2
    assert not unnamed(reader.folder / "st-mary")
    assert not unnamed(reader.folder / "hospitals")
    for service in ("umbel-agent.service", "umbel-server.service"):
        assert "ExecStart=" in (reader.folder / service).read_text()


def unnamed(folder):
    """What lies in a folder, and docs/operations.md does not say whether it is backed up."""
    page = (PAGE.parent / "operations.md").read_text().split("## Restore")[0]
    named = {name.rstrip("/") for name in re.findall(r"`([^`]+)`", page)}
    known = [*named, *(f"{name}-*" for name in ("audit",)), "*.db-*", "*.sqlite-*"]
    return [p.name for p in folder.iterdir() if not any(fnmatch(p.name, k) for k in known)]


def name_of_run(out):
    """As `umbel run` prints it."""
    return re.search(r"(\S+)", out)[1]


def asks_first(reader):
    """St Mary's wants to approve each run from now on; there is one, and its agent shows it."""
    policy = reader.folder / "st-mary" / "policy.toml"
    text = policy.read_text()
    assert 'approval = "automatic"' in text
    policy.write_text(text.replace('approval = "automatic"', 'approval = "manual"'))
    agent = next(key for key in reader.running if key[0] == "st-mary")
    reader.end(agent)
    reader.begin(*agent)
    reader.names["RUN"] = name_of_run(reader.do("operator", "umbel run reviews.toml"))

    def waiting():
        return re.search(
            r"^\W*([0-9a-f]{4,})", reader.do("st-mary", "umbel client jobs st-mary"), re.M
        )

    reader.names["3f9a"] = reader.until("a job that waits", waiting)[1]
