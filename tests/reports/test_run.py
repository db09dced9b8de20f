"""A run folder is read as it is: finished, stopped, or cut off in the middle of a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from umbel.errors import RunFolderError
from umbel.reports.plots import sheet
from umbel.run.record import RunRecord, main_metric


def append(folder: Path, text: str) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(text)


def test_a_finished_run_is_read_in_full(tmp_path, write_run):
    record = RunRecord.read(write_run(tmp_path / "run"))
    assert record.finished
    assert record.client_names == ["film", "shop", "food", "travel"]
    assert [entry.round for entry in record.rounds] == list(range(1, 11))
    assert [test.round for test in record.evaluations] == list(range(11))
    assert record.final["accuracy"] > record.before["accuracy"]
    assert record.epsilon_target == 4.0
    assert record.delta == 1e-5
    assert record.partition is not None
    assert record.partition.clients["film"].train == record.plan["clients"][0]["training_size"]


def test_a_line_cut_in_half_is_ignored(tmp_path, write_run):
    folder = write_run(tmp_path / "run", ran=3)
    append(folder, '{"event":"round","round":4,"attempt":1,"seco')
    record = RunRecord.read(folder)
    assert [entry.round for entry in record.rounds] == [1, 2, 3]
    assert not record.finished
    assert record.state == "unfinished: 3 of 10 rounds"


def test_a_character_cut_in_half_is_ignored(tmp_path, write_run):
    folder = write_run(tmp_path / "run", ran=3)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write('{"event":"round","clients":["café'.encode()[:-1])
    assert len(RunRecord.read(folder).rounds) == 3


def test_a_repeated_round_counts_as_its_later_line_says(tmp_path, write_run):
    folder = write_run(tmp_path / "run", ran=4)
    again = {"event": "round", "round": 3, "attempt": 2, "seconds": 9.0, "clients": ["film"]}
    tested = {"event": "evaluation", "round": 4, "metrics": {"accuracy": 0.123}, "clients": {}}
    append(folder, json.dumps(again) + "\n" + json.dumps(tested) + "\n")
    record = RunRecord.read(folder)
    assert [entry.round for entry in record.rounds] == [1, 2, 3, 4]
    assert record.rounds[2].attempt == 2
    assert record.rounds[2].clients == ["film"]
    assert record.final["accuracy"] == 0.123


def test_a_failure_is_still_told_when_a_later_attempt_succeeded(tmp_path, write_run):
    folder = write_run(tmp_path / "run", ran=2, failed={"shop": "no answer"})
    append(folder, json.dumps({"event": "round", "round": 2, "attempt": 2, "failed": {}}) + "\n")
    failures = RunRecord.read(folder).failures
    assert [(f.round, f.attempt, f.client, f.reason) for f in failures] == [
        (2, 1, "shop", "no answer")
    ]


def test_epsilon_of_an_unfinished_run_is_the_last_on_record(tmp_path, write_run):
    record = RunRecord.read(write_run(tmp_path / "run", ran=4))
    assert record.epsilon == record.rounds[-1].epsilon
    assert RunRecord.read(write_run(tmp_path / "open", unit="none")).epsilon == {}


def test_a_test_on_private_counts_adds_to_what_an_unfinished_run_has_spent(tmp_path, write_run):
    folder = write_run(tmp_path / "run", ran=4)
    before = RunRecord.read(folder)
    spent = {name: value + 0.25 for name, value in before.rounds[-1].epsilon.items()}
    tested = {"event": "evaluation", "round": 4, "metrics": {}, "clients": {}, "epsilon": spent}
    append(folder, json.dumps(tested) + "\n")
    record = RunRecord.read(folder)
    assert record.epsilon == spent
    drawn = sheet(record, "epsilon").get_axes()[0].get_lines()
    ends = {round(float(line.get_ydata()[-1]), 6) for line in drawn if len(line.get_xdata()) == 5}
    assert ends == {round(value, 6) for value in spent.values()}


def test_a_plan_alone_is_a_run_that_has_not_begun(tmp_path):
    (tmp_path / "plan.json").write_text('{"name": "early", "task": "causal-lm", "rounds": 5}')
    record = RunRecord.read(tmp_path)
    assert (record.name, record.state) == ("early", "unfinished: 0 of 5 rounds")
    assert record.final == {}


@pytest.mark.parametrize("name", ["absent", ""])
def test_another_folder_is_refused_with_its_name(tmp_path, name):
    with pytest.raises(RunFolderError, match=r"not a run folder: it (does not exist|has no plan)"):
        RunRecord.read(tmp_path / name)


def test_a_damaged_result_is_named(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    (folder / "result.json").write_text('{"name": ')
    with pytest.raises(RunFolderError, match=r"result\.json is damaged"):
        RunRecord.read(folder)


def test_every_task_has_a_metric_and_others_are_refused():
    assert main_metric("text-classification").higher_is_better
    assert not main_metric("causal-lm").higher_is_better
    with pytest.raises(
        RunFolderError,
        match="tasks with one: text-classification, image-classification, token-classification, causal-lm",
    ):
        main_metric("weaving")


def test_a_round_that_was_given_up_is_no_round_that_is_done(tmp_path, write_run):
    """As umbel status counts them."""
    folder = write_run(tmp_path / "run", ran=3)
    given_up = {"event": "round", "round": 4, "attempt": 1, "clients": [], "aggregated": False}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(given_up) + "\n")
    record = RunRecord.read(folder)
    assert (record.summed, record.state) == (3, "unfinished: 3 of 10 rounds")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(given_up | {"attempt": 2, "aggregated": True}) + "\n")
    assert RunRecord.read(folder).state == "unfinished: 4 of 10 rounds"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(given_up) + "\n")
    assert RunRecord.read(folder).state == "unfinished: 4 of 10 rounds", (
        "a round that is made stays so"
    )


def test_a_run_whose_members_are_still_asked_is_called_so(tmp_path):
    (tmp_path / "job.toml").write_text('name = "early"\n')
    with pytest.raises(RunFolderError, match="has no plan yet: .* umbel status"):
        RunRecord.read(tmp_path)
