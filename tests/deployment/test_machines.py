"""What machines and networks do: full disks, cut connections, hosts that are cut off.

These need root, for a small file system and for network namespaces, and are skipped without it.
"""

import contextlib
import os
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.faults
ODD = "client-0002"
NETWORK = "10.213.77"


def does(*command):
    return subprocess.run(command, capture_output=True, timeout=30).returncode == 0


def do(*command):
    subprocess.run(command, check=True, capture_output=True, timeout=30)


@pytest.fixture
def tiny_disk():
    """Put a file system of 1 MB in a folder's place."""
    with contextlib.ExitStack() as stack:

        def mount(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            if not does("mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)):
                pytest.skip("this user cannot mount a file system")
            stack.callback(do, "umount", "-l", str(folder))

        yield mount


def test_a_full_disk_stops_a_run_with_a_reason_and_room_heals_it(
    tiny_disk, deployed_job, deploy, reference
):
    deployment = deploy(deployed_job(cohort={"retries": 0}, encryption={"deadline": 30.0}))
    journals = deployment.owners[ODD].journals
    tiny_disk(journals)
    with contextlib.suppress(OSError), open(journals / "other", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    run = deployment.start().place(name="full")
    assert deployment.over(run).status == "failed"
    assert "the client's own log says why" in deployment.umbel("status", run)
    deployment.said(ODD, "No space left on device")
    (journals / "other").unlink()
    deployment.umbel("resume", run)
    assert deployment.finished(run)["adapter_sha256"] == reference(deployment.job)
    once = {name: {1: 1, 2: 1} for name in deployment.owners}
    assert deployment.charged(run) == once
    assert deployment.uploads.twice == {}


def test_cut_connections_cost_nothing_but_time(standing, reference):
    deployment = standing.start()
    port = str(deployment.consortium.card.port)
    if not does("ss", "-K", "dst", "127.0.0.1", "dport", "=", port):
        pytest.skip("connections cannot be cut here")
    run = deployment.place(name="cut")
    for stage in ("train 1", "confirm 1", "open 1", "train 2"):
        deployment.reaches(run, stage)
        do("ss", "-K", "dst", "127.0.0.1", "dport", "=", port)
    if deployment.over(run).status == "failed":
        deployment.resumed(run, "clients are ready|clients answered")
    assert deployment.finished(run)["adapter_sha256"] == reference(deployment.job)
    once = {name: {1: 1, 2: 1} for name in deployment.owners}
    assert deployment.charged(run) == once


@pytest.fixture
def hosts():
    """Hosts with an address each, on one network: `hosts(names)` gives command prefix and link by name."""
    mark = f"umb{os.getpid() % 10000}"
    bridge, made = f"{mark}br", []
    if not shutil.which("ip") or not does("ip", "link", "add", bridge, "type", "bridge"):
        pytest.skip("network namespaces need iproute2 and root")
    do("ip", "link", "set", bridge, "up")

    def build(names):
        for number, name in enumerate(names, start=1):
            space, link = f"{mark}n{number}", f"{mark}v{number}"
            if not does("ip", "netns", "add", space):
                pytest.skip("no network namespaces here")
            made.append((name, space, link))
            do("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
            do("ip", "link", "set", link, "master", bridge, "up")
            inside = ("ip", "-n", space)
            do(*inside, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            do(*inside, "link", "set", "eth0", "up")
            do(*inside, "link", "set", "lo", "up")
        return {name: (["ip", "netns", "exec", space], link) for name, space, link in made}

    yield build
    for _, space, link in made:
        does("ip", "link", "delete", link)
        does("ip", "netns", "delete", space)
    does("ip", "link", "delete", bridge)


def move(deployment, places):
    """Let each process of a deployment run on a host of its own, the server on the first."""
    from datetime import UTC, datetime

    from umbel.consortium import tls
    from umbel.storage.files import write_durably

    consortium = deployment.consortium
    key, authority_key = map(tls.read_key, (consortium.server_key, consortium.path / "ca.key"))
    authority = tls.read_certificate(consortium.ca_certificate)
    certificate = tls.server_certificate(
        f"{NETWORK}.1", key, authority, authority_key, datetime.now(UTC)
    )
    write_durably(consortium.server_certificate, tls.certificate_pem(certificate))
    for name, (prefix, _) in places.items():
        deployment.prefixes[name] = prefix
    deployment.host = "0.0.0.0"
    for home in deployment.owners.values():
        text = home.settings_file.read_text()
        address = f'address = "{NETWORK}.1:{consortium.card.port}"'
        home.settings_file.write_text(text.replace("[server]", f"[server]\n{address}"))


def test_an_owner_on_another_host_is_cut_off_for_a_while(hosts, deployed_job, deploy, reference):
    deployment = deploy(deployed_job(cohort={"deadline": 15.0, "retries": 1}))
    places = hosts(["server", *deployment.owners])
    move(deployment, places)
    deployment.start()
    run = deployment.place(name="hosts")
    deployment.reaches(run, "train 2")
    do("ip", "link", "set", places[ODD][1], "down")
    row = deployment.over(run)
    assert row.status == "failed"
    assert ODD in row.reason
    do("ip", "link", "set", places[ODD][1], "up")
    deployment.umbel("resume", run)
    assert deployment.finished(run)["adapter_sha256"] == reference(deployment.job)
    once = {name: {1: 1, 2: 1} for name in deployment.owners}
    assert deployment.charged(run) == once
    assert deployment.uploads.twice == {}
