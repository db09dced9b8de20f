"""What the Helm charts promise, checked without Kubernetes or Helm."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from umbel import __version__
from umbel.consortium.authority import Consortium
from umbel.privacy.secagg.roster import Limits
from umbel.server.split import SECRETS, split

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHARTS = [DEPLOY / "helm" / "umbel-server", DEPLOY / "helm" / "umbel-agent"]
charts = pytest.mark.parametrize("chart", CHARTS, ids=lambda path: path.name)


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
