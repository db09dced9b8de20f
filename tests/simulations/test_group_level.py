"""A federation that protects all records of one patient together."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from umbel.errors import DataError
from umbel.learning.data import load_corpus
from umbel.learning.split import split_secret
from umbel.privacy.ledger.ledger import Ledger
from umbel.redteam.audit import audit_run
from umbel.simulations.engine import Options, simulate
from umbel.simulations.federation import federate
from umbel.simulations.rehearsal import set_up

CLIENTS = 3


@pytest.fixture(scope="module")
def patients_csv(reviews, tmp_path_factory):
    """The reviews as records of patients with 1 to 6 records, and some that name none."""
    path = tmp_path_factory.mktemp("data") / "patients.csv"
    generator = np.random.default_rng(0)
    names = np.repeat(np.arange(60), generator.integers(1, 7, 60))[: len(reviews)]
    names = generator.permutation(names)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "patient"])
        for number, (row, name) in enumerate(zip(reviews, names, strict=False)):
            writer.writerow([row["text"], row["label"], f"p{name}" if number % 9 else ""])
    return path


@pytest.fixture
def job(job_of, patients_csv):
    return job_of(
        data={"path": str(patients_csv), "group_column": "patient", "records_per_group": 2},
        privacy={"unit": "group", "epsilon": 20.0},
        evaluation={"counts": "private", "epsilon": 10.0},
        simulation={"partition": "iid", "clients": CLIENTS},
        training={"rounds": 2},
    )


def start(job, folder, **options):
    return simulate(job, Options(folder, reproducible=True, **options))


def test_what_is_drawn_planned_charged_and_promised_is_groups(job, umbel, tmp_path):
    folder = start(job, tmp_path / "run", workers=1)
    plan, result = folder.read_json("plan.json"), folder.read_json("result.json")
    assert "any one patient's records" in plan["guarantee"]
    assert result["privacy"]["unit"] == "group"
    federation = federate(job)
    for client, share in zip(plan["clients"], federation.shares, strict=True):
        rows = np.concatenate([share.train, share.test])
        assert (
            federation.data(share).counts.data
            == len(set(federation.groups[rows].tolist()))
            < len(rows)
        )
        assert client["sampling_rate"] == job.training.batch_size / federation.training_size(share)
        with Ledger(folder.path / "ledgers" / f"{client['name']}.sqlite") as ledger:
            charged = [e.event for e in ledger.entries() if e.event.kind == "gaussian"]
        assert {(e.noise_multiplier, e.sampling_rate) for e in charged} == {
            (client["noise_multiplier"], client["sampling_rate"])
        }

    status, words, _ = umbel("verify", folder.path)
    assert status == 0, words
    assert (
        json.loads((folder.path / "certificate.json").read_text())["guarantee"]["unit"] == "group"
    )
    status, *_ = umbel("report", folder.path)
    assert status == 0
    assert "as if all records of one given group" in (folder.path / "report.html").read_text()


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_a_bit(job, tmp_path):
    one, two = (start(job, tmp_path / str(n), workers=n) for n in (1, 2))
    results = [folder.read_json("result.json") for folder in (one, two)]
    assert results[0]["adapter_sha256"] == results[1]["adapter_sha256"]
    assert results[0]["metrics"] == results[1]["metrics"]


@pytest.fixture
def in_two_files(job, job_of, patients_csv, tmp_path):
    """The same, with a third of the records held out in a file, also of patients that are trained on."""
    header, *lines = patients_csv.read_text(encoding="utf-8").splitlines(keepends=True)
    parts = [line for n, line in enumerate(lines) if n % 3], lines[::3]
    names = []
    for name, part in zip(("train.csv", "test.csv"), parts, strict=True):
        (tmp_path / name).write_text(header + "".join(part), encoding="utf-8")
        names.append(str(tmp_path / name))
    data = {**job.data.model_dump(), "path": names[0], "test_path": names[1]}
    return job_of(**{**job.model_dump(exclude={"data", "model"}), "data": data})


def test_no_held_out_file_has_a_group_that_is_trained_on(in_two_files):
    federation = federate(in_two_files)
    for share in federation.shares:
        data = federation.data(share)
        trained, tested = ({*side.groups.tolist()} for side in (data.train, data.test))
        assert not trained & tested
        assert tested < {*federation.groups[share.test].tolist()}
        assert (data.counts.data, data.counts.held_out) == (len(trained), len(tested))


@pytest.mark.parametrize("name", ["job", "in_two_files"])
def test_owners_have_the_same_groups_between_machines(name, request, tmp_path):
    job = request.getfixturevalue(name)
    federation = federate(job)
    stage = set_up(job, tmp_path)
    for share, home in zip(federation.shares, stage.owners, strict=True):
        here = federation.data(share)
        there = home.source.load(stage.job, split_secret(job.seed))
        assert here.counts == there.counts
        assert here.records_per_group == there.records_per_group == 2
        for one, other in ((here.train, there.train), (here.test, there.test)):
            assert one.digest() == other.digest()
            # The numbers differ; who belongs together does not.
            assert len(one.by_group) == len(other.by_group)
            assert len(set(zip(one.groups.tolist(), other.groups.tolist(), strict=True))) == len(
                one.by_group
            )


def test_no_group_is_in_two_places_and_tests_use_a_few_records_of_each(job):
    federation, corpus = federate(job), load_corpus(job.data, job.task)
    sides = [side for share in federation.shares for side in (share.train, share.test)]
    names = Counter(
        name
        for side in sides
        for name in {corpus.groups[row] for row in side if corpus.groups[row]}
    )
    assert set(names.values()) == {1}
    for share in federation.shares:
        tested = federation.data(share).test
        assert set(tested.by_group.sizes.tolist()) <= {1, 2}
        assert len(tested.by_group) == len(set(federation.groups[share.test].tolist()))


def test_test_rows_must_tell_their_groups_too(job, reviews_csv, job_of):
    data = {**job.data.model_dump(), "test_path": str(reviews_csv)}
    with pytest.raises(DataError, match="patient"):
        federate(job_of(data=data, privacy={"unit": "group"}, simulation={"partition": "iid"}))


def test_an_audit_replays_groups_as_canaries_and_finds_nothing(job, tmp_path, seeded_attacks):
    found = audit_run(start(job, tmp_path / "run", workers=1).path, canaries=200)
    assert not found["broken"]
    assert found["canaries"]["records_per_group"] == 2
    assert found["canaries"]["canaries"] == 100
    assert "protects one group" in found["mislabelled"]["skipped"]


def test_a_groups_losses_are_released_with_noise_for_a_whole_group(job, tmp_path):
    by_loss = job.model_copy(
        update={"strategy": job.strategy.model_copy(update={"name": "q-fedavg"})}
    )
    folder = start(by_loss, tmp_path / "run", workers=1)
    assert not [event for event in folder.read_events() if event.get("failed")]
    plan = folder.read_json("plan.json")
    assert "of groups' mean losses clipped to" in plan["guarantee"]
    assert all(c["events"]["losses"]["steps"] == c["rounds"] for c in plan["clients"])
