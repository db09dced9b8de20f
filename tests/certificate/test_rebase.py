"""The certificate of a run whose strategy moves the base: what it says of that, and how a change shows."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from umbel.certificate.check import verify
from umbel.certificate.form import FILE, Certificate
from umbel.certificate.rebase_check import rebase_findings
from umbel.run.events import Rebase
from umbel.run.run_folder import RunFolder
from umbel.simulations.engine import Options, simulate

pytestmark = pytest.mark.slow


@pytest.fixture
def run(job_of, tmp_path):
    job = job_of(
        "bert",
        model={"adapter": "lora"},
        strategy={"name": "flora", "options": {"residual_rank": 5}},
        training={"rounds": 2, "local_steps": 1},
        evaluation={"counts": "off"},
    )
    return simulate(job, Options(tmp_path / "run", workers=1)).path


def wrong(run):
    return {found.what: found.text for found in verify(run).findings if found.holds is False}


def test_what_was_put_into_the_base_is_certified_and_checked(run):
    stated = Certificate.read(run / FILE).adapter.rebase
    told = RunFolder(run).told(Rebase)
    result = json.loads((run / "result.json").read_text())
    assert [event.round for event in told] == [1, 2]
    assert stated.model_dump() == result["rebase"]
    assert (stated.round, stated.sha256, stated.rank) == (2, told[1].sha256, 5)
    lost = sum(event.dropped for event in told) / told[1].norm
    assert stated.dropped == pytest.approx(lost)
    assert lost > 0
    found = {finding.what: finding for finding in verify(run).findings}
    assert found["rebase"].holds
    assert "the adapter and metrics.jsonl agree" in found["rebase"].text

    path = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if ".lora_B." in n)
    assert tensors[name].shape[1] == 2 + 5
    whole = path.read_bytes()
    for column, which in ((0, {"adapter"}), (2, {"adapter", "rebase"})):
        changed = {**tensors, name: tensors[name].copy()}
        changed[name][:, column] += np.float32(0.5)
        save_file(changed, path)
        assert set(wrong(run)) == which
    path.write_bytes(b"{}")
    assert set(wrong(run)) == {"adapter", "rebase"}
    path.write_bytes(whole)
    assert not wrong(run)

    events = run / "metrics.jsonl"
    lines = events.read_text()
    events.write_text(lines.replace(told[1].sha256, "0" * 64))
    assert "metrics.jsonl does not tell it" in wrong(run)["rebase"]
    events.write_text(lines)
    result["rebase"]["dropped"] = 0.0
    (run / "result.json").write_text(json.dumps(result))
    assert "rebase" in wrong(run)["result.json"]


def test_a_signer_that_leaves_it_out_is_found_out(run):
    certificate = Certificate.read(run / FILE)
    (known,) = rebase_findings(certificate, None, None)
    assert known.holds is None
    silent = certificate.adapter.model_copy(update={"rebase": None})
    (found,) = rebase_findings(certificate.model_copy(update={"adapter": silent}), None, None)
    assert found.holds is False
    assert "does not say what flora put into the base" in found.text
