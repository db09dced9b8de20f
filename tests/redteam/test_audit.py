"""`umbel audit` on real runs: what it writes, whom it refuses, and how it reads."""

import json
import shutil
import stat
from dataclasses import replace

import pytest

from umbel.errors import DataError, RunFolderError
from umbel.learning.trainer import train
from umbel.redteam import audit as audits
from umbel.redteam.audit import audit_run
from umbel.reports.audit_page import write_audit_page
from umbel.simulations.engine import Options, simulate

pytestmark = pytest.mark.usefixtures("seeded_attacks")


@pytest.fixture(scope="module")
def finished(job_of, tmp_path_factory):
    """A small private and encrypted run, over by itself."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    # Whole batches, so that a canary is seen as well as its noise allows, and a delta that gives
    # away little.
    job = job_of("bert", privacy={"delta": 1e-5}, training={"rounds": 2, "batch_size": 64})
    return simulate(job, Options(folder, workers=1)).path


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(finished, tmp_path / "run", symlinks=True)


def test_a_sound_run_is_attacked_in_every_way_and_stands(run):
    found = audit_run(run, canaries=1000)
    assert json.loads((run / "audit.json").read_text()) == found
    canaries = found["canaries"]
    plan = json.loads((run / "plan.json").read_text())
    assert canaries["noise_multiplier"] in {c["noise_multiplier"] for c in plan["clients"]}
    assert (canaries["canaries"], canaries["rounds"], canaries["local_steps"]) == (1000, 2, 2)
    assert canaries["lower_bound"] <= canaries["claimed_epsilon"] <= 8
    assert not canaries["refuted"]
    membership = found["membership"]["final"]
    assert membership["members"] + membership["others"] == 144
    assert membership["low"] <= membership["auc"] <= membership["high"]
    views = found["inversion"]["views"]
    assert [(v["summed"], v["noised"]) for v in views] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]
    assert [v["seen_by_server"] for v in views] == [False, False, False, True]
    assert views[0]["share"] == 1.0
    assert len(found["verdict"]) == 3


def test_a_head_on_several_layers_is_attacked_through_all_of_them(job_of, tmp_path):
    job = job_of("bert", model={"pooling": "layers"}, training={"rounds": 2, "batch_size": 64})
    found = audit_run(simulate(job, Options(tmp_path / "run", workers=1)).path, canaries=200)
    assert not found["canaries"]["refuted"]
    assert found["inversion"]["views"][0]["share"] == 1.0


def with_less_noise(share):
    def weak(*arguments, private, **named):
        noise = share * private.noise_multiplier
        return train(*arguments, private=replace(private, noise_multiplier=noise), **named)

    return weak


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.01, "THE PLAN IS BROKEN"), (0.95, "THE PLAN IS BROKEN")]
)
def test_a_run_with_less_noise_than_planned_is_caught(run, monkeypatch, umbel, share, verdict):
    defaults = audits.audit_mechanism.__kwdefaults__
    monkeypatch.setitem(defaults, "train", with_less_noise(share))
    status, out, _ = umbel("audit", run)
    assert status == 1
    assert verdict in out
    assert 'class="box bad"' in (run / "audit.html").read_text()


def test_a_claim_that_is_too_small_is_refuted(run, umbel):
    """As by an accountant that is reset: the plan is kept, and the ledger's figure is wrong."""
    result = json.loads((run / "result.json").read_text())
    spent = result["privacy"]["clients"]
    spent |= dict.fromkeys(spent, 0.3)
    (run / "result.json").write_text(json.dumps(result))
    status, out, _ = umbel("audit", run)
    assert status == 1
    assert "THE CLAIM IS REFUTED" in out


def test_a_run_without_privacy_has_nothing_to_refute_but_much_to_read(open_job_of, tmp_path):
    job = open_job_of("bert", privacy={"unit": "none"}, training={"rounds": 1})
    path = simulate(job, Options(tmp_path / "open", workers=1)).path
    found = audit_run(path)
    assert "no differential privacy" in found["canaries"]["skipped"]
    [seen] = [view for view in found["inversion"]["views"] if view["seen_by_server"]]
    assert (seen["summed"], seen["noised"], seen["share"]) == (False, False, 1.0)
    assert "what the server of this run saw" in found["verdict"][2]
    write_audit_page(path, found)


def test_a_language_model_is_audited_as_far_as_that_goes(job_of, tmp_path):
    job = job_of(
        "gpt2",
        task="causal-lm",
        model={"adapter": "lora"},
        data={"label_column": None, "labels": None},
        training={"rounds": 1},
    )
    path = simulate(job, Options(tmp_path / "language", workers=1)).path
    found = audit_run(path, canaries=100)
    assert not found["canaries"]["refuted"]
    assert "auc" in found["membership"]["final"]
    assert "no attack is implemented" in found["inversion"]["skipped"]
    write_audit_page(path, found)


def test_a_run_with_seeded_noise_is_told_that_nothing_holds(run):
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "reproducible": True}))
    assert "no guarantee holds" in audit_run(run, canaries=100)["verdict"][0]


def test_the_page_stands_alone_and_harms_nobody(run):
    found = audit_run(run, canaries=100)
    found["inversion"]["views"][0]["trials"][0]["truth"] = "<script>alert(1)</script>"
    path = write_audit_page(run, found)
    page = path.read_text(encoding="utf-8")
    assert {stat.S_IMODE(one.stat().st_mode) for one in (path, run / "audit.json")} == {0o600}
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/svg+xml;base64,") == 3


def test_a_run_that_is_not_finished_is_refused(run):
    (run / "result.json").unlink()
    with pytest.raises(RunFolderError, match="not finished"):
        audit_run(run)


def test_a_model_that_is_not_the_runs_own_is_refused(run):
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "adapter_sha256": "0" * 64}))
    with pytest.raises(RunFolderError, match="was changed"):
        audit_run(run)


def test_data_that_changed_is_refused(run, tmp_path):
    job = (run / "job.toml").read_text()
    [line] = [line for line in job.splitlines() if line.startswith("path = ")]
    old = line.split('"')[1]
    shorter = tmp_path / "shorter.csv"
    with open(old, encoding="utf-8") as file:
        shorter.write_text("".join(file.readlines()[:-3]), encoding="utf-8")
    (run / "job.toml").write_text(job.replace(old, str(shorter)))
    with pytest.raises(DataError, match="has changed since"):
        audit_run(run)


def test_of_a_deployment_only_the_mechanism_is_audited_and_only_when_asked(run):
    events = (run / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in events if json.loads(line)["event"] != "partition"]
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    with pytest.raises(RunFolderError, match="--production"):
        audit_run(run)
    found = audit_run(run, canaries=100, production=True)
    assert "lower_bound" in found["canaries"]
    assert "at their owners" in found["membership"]["skipped"]
    assert "at their owners" in found["inversion"]["skipped"]
    write_audit_page(run, found)


def test_the_command_speaks_json_and_tells_what_it_does(run, umbel):
    status, out, err = umbel("audit", run, "--canaries", "100", "--json")
    assert status == 0
    assert json.loads(out)["name"] == "quick"
    assert "canaries" in err
    assert (run / "audit.html").is_file()


def test_a_simulation_is_audited_at_its_end_where_that_is_asked(umbel, reviews_csv, tiny, tmp_path):
    status, out, _ = umbel(
        "simulate", "--data", reviews_csv, "--partition", "column:site", "--model", tiny("bert"),
        "--workers", "1", "--set", "training.rounds=1", "--run-dir", tmp_path / "asked", "--audit",
    )  # fmt: skip
    assert status == 0
    assert "Epsilon is at least" in out
    assert (tmp_path / "asked" / "audit.html").is_file()


def test_many_small_clients_are_attacked_too(job_of, tmp_path):
    job = job_of(
        "bert",
        simulation={"partition": "iid", "clients": 12},
        training={"rounds": 1, "batch_size": 2},
    )
    found = audit_run(simulate(job, Options(tmp_path / "many", workers=1)).path, canaries=100)
    assert found["membership"]["clients"] == {}
    views = found["inversion"]["views"]
    assert [view["clients"] for view in views] == [1, 8, 1, 8]
    assert len(views[1]["trials"]) > 5


def test_too_few_canaries_are_refused(run, umbel):
    status, _, err = umbel("audit", run, "--canaries", "3")
    assert status == 2
    assert "at least 20" in err
