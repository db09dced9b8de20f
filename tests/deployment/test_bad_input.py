"""Bad input between machines: each is a sentence on the side where a person can act."""

import contextlib
import json
import os
import socket
import subprocess

import pytest

pytestmark = pytest.mark.faults
ODD = "client-0002"


@pytest.fixture
def calm(deployed_job, deploy):
    """A deployment whose runs stop at the first round that fails; nothing is started."""
    return deploy(deployed_job(cohort={"deadline": 30.0, "retries": 0}))


def outcome(command):
    """Exit status and output of a command that ends by itself."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def set_policy(home, section, **values):
    import tomli_w

    from umbel.client.policy import Policy

    policy = Policy.read(home.policy).model_dump(mode="json")
    policy[section] |= values
    home.policy.write_text(tomli_w.dumps(policy))


def set_address(home, address):
    text = home.settings_file.read_text()
    home.settings_file.write_text(text.replace("[server]", f'[server]\naddress = "{address}"'))


def refused(deployment, run, reason):
    """The run failed, and its status says why."""
    import re

    assert deployment.over(run).status == "failed"
    status = deployment.umbel("status", run)
    assert re.search(reason, status), status


def test_who_was_never_admitted_is_told_to_send_the_request(calm, tmp_path):
    from umbel.client.home import Home

    data = calm.owners[ODD].data
    card = calm.consortium.path / "consortium.json"
    calm.owners["stranger"] = Home.create(tmp_path / "owners" / "stranger", card, data)
    calm.start("server", "stranger")
    calm.said("stranger", "is not a member yet. Send .*stranger.request.json to the operator")


def test_who_was_removed_is_told_so(calm):
    calm.start("server").said("server", f"members: .*{ODD}")
    calm.start(ODD).said(ODD, "asks .* for work")
    calm.umbel("consortium", "remove", calm.consortium.path, ODD)
    calm.said(ODD, "is not a member yet")


def test_a_server_by_another_name_is_not_believed(calm):
    calm.host = "127.0.0.2"
    set_address(calm.owners[ODD], f"127.0.0.2:{calm.consortium.card.port}")
    calm.start("server", ODD)
    calm.said(ODD, "the server's certificate is refused .*not valid for '127.0.0.2'")


def test_an_expired_certificate_is_named_and_a_renewal_heals(calm, reference):
    from datetime import UTC, datetime, timedelta

    calm.consortium.renew_certificate(datetime.now(UTC) - timedelta(days=900))
    status, said = outcome(calm.command("server"))
    assert status != 0
    folder = os.path.relpath(calm.consortium.path)  # as the operator named it
    assert f"expired. Make a new one: umbel consortium renew {folder}" in said
    calm.umbel("consortium", "renew", calm.consortium.path)
    run = calm.start().place(name="renewed")
    assert calm.finished(run)["adapter_sha256"] == reference(calm.job)


def test_a_job_that_another_key_signed_is_refused_with_that_reason(calm):
    from umbel.consortium.warrants import sign_job
    from umbel.privacy.secagg.keys import Identity

    run = calm.place(name="forged")
    file = calm.consortium.runs / run / "run.json"
    said = json.loads(file.read_text())
    other = Identity(os.urandom(64))
    said["signature"] = sign_job(other, calm.consortium.card.id, said["id"], calm.job.to_json())
    file.write_text(json.dumps(said))
    calm.start()
    refused(calm, run, "sign|operator")


def test_a_run_goes_on_with_data_that_changed_under_the_same_account(calm):
    from pyarrow import parquet

    data = calm.owners[ODD].data
    calm.start()
    run = calm.place(name="changed")
    calm.round(run, 1)
    parquet.write_table(parquet.read_table(data).slice(1), data)
    assert calm.finished(run)["status"] == "finished"
    once = dict.fromkeys(range(1, calm.job.training.rounds + 1), 1)
    assert calm.charged(run) == dict.fromkeys(calm.owners, once)


def test_a_second_agent_for_the_same_owner_ends_with_a_sentence(calm):
    calm.start(ODD)
    calm.said(ODD, "asks .* for work")
    status, said = outcome(calm.command(ODD))
    assert status != 0
    assert "Another agent serves" in said
    assert "Traceback" not in said


def test_a_second_server_for_the_same_consortium_ends_with_a_sentence(calm):
    calm.start("server")
    calm.said("server", "serves on port")
    status, said = outcome(calm.command("server"))
    assert status != 0
    assert "Another server already runs" in said


def test_a_port_in_use_is_named_with_a_way_out(calm):
    with contextlib.closing(socket.socket()) as other:
        other.bind(("127.0.0.1", calm.consortium.card.port))
        other.listen()
        status, said = outcome(calm.command("server"))
    assert status != 0
    assert f"Port {calm.consortium.card.port}" in said
    assert "--port" in said
    assert "Traceback" not in said


def test_another_version_of_umbel_is_named_on_both_sides(calm, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sitecustomize.py").write_text(
        "import umbel\numbel.__version__ = '0.0.1'\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path / "old"), os.environ.get("PYTHONPATH", "")]))
    calm.environments[ODD]["PYTHONPATH"] = path
    calm.start()
    run = calm.place(name="version")
    refused(calm, run, f"{ODD} runs Umbel 0.0.1, the server .*same version")


def test_a_run_waits_for_an_owner_that_decides_itself(calm):
    home = calm.owners[ODD]
    set_policy(home, "jobs", approval="manual")
    calm.start()
    run = calm.place(name="approved")
    calm.said(run, f"{ODD}: This run waits for the owner's approval")
    [request] = json.loads(calm.umbel("client", "jobs", home.path, "--json"))
    calm.umbel("client", "approve", request["id"][:12], home.path)
    calm.finished(run)


def test_an_owner_that_says_no_is_heard(calm):
    home = calm.owners[ODD]
    set_policy(home, "jobs", approval="manual")
    calm.start()
    run = calm.place(name="denied")
    calm.said(run, f"{ODD}: This run waits for the owner's approval")
    [request] = json.loads(calm.umbel("client", "jobs", home.path, "--json"))
    calm.umbel("client", "deny", request["id"][:12], home.path, "--reason", "not this year")
    refused(calm, run, f"{ODD}: The owner denied this run: not this year")
