"""Flower's Ray engine runs the same job to the same adapter, and fails in words."""

import sys

import pytest

from umbel.errors import UmbelError
from umbel.simulations.engine import Options, simulate


def _run(job, folder, engine, workers):
    run = simulate(job, Options(folder, workers=workers, engine=engine, reproducible=True))
    # Heads are sealed by the ledgers' own random names.
    apart = ("seconds", "trips", "heads")
    events = [
        {key: value for key, value in event.items() if key not in apart}
        for event in run.read_events()
    ]
    return run.read_json("result.json")["adapter_sha256"], events


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "privacy"), [({"adapter": "lora"}, {}), ({"adapter": "head"}, {"unit": "none"})]
)
def test_ray_and_our_own_workers_give_the_same_adapter(job_of, tmp_path, model, privacy):
    """Also the same cohorts, losses, epsilons and counts, though Flower draws the nodes' numbers."""
    pytest.importorskip("ray")
    job = job_of(model=model, privacy=privacy, cohort={"size": 3})
    ours, our_events = _run(job, tmp_path / "ours", "inprocess", 1)
    theirs, their_events = _run(job, tmp_path / "ray", "ray", 2)
    assert theirs == ours
    assert their_events == our_events


@pytest.mark.slow
def test_a_ray_that_does_not_start_stops_the_run_at_once(job_of, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null/there-is-no-folder-in-a-file")
    with pytest.raises(UmbelError, match="Ray stopped: .*--resume"):
        simulate(job_of(), Options(tmp_path / "run", engine="ray", workers=1))


def test_a_missing_ray_is_named_before_anything_is_written(job_of, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UmbelError, match=r"pip install 'umbel\[ray\]'"):
        simulate(job_of(), Options(tmp_path / "run", engine="ray"))
    assert not list(tmp_path.iterdir())


def test_the_client_app_hands_every_kind_of_request_to_the_agent():
    from flwr.app import Context, Message, RecordDict

    from umbel.client.app import build_client_app
    from umbel.flower import take_server_identity
    from umbel.wire.requests import KINDS

    take_server_identity(1)
    seen = []

    def handle(message, context):
        seen.append((message.metadata.message_type, context.node_config["partition-id"]))
        return Message(RecordDict(), reply_to=message)

    app = build_client_app(handle)
    context = Context(1, 2, {"partition-id": 7}, RecordDict(), {})
    for kind in KINDS:
        app(Message(RecordDict(), dst_node_id=2, message_type=kind), context)
    assert seen == [(kind, 7) for kind in KINDS]
    assert len(set(KINDS)) == len(KINDS)
