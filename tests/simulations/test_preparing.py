"""Before the first round: how far it has come is told, and a run that is left there leaves nothing behind."""

import itertools
import json

import pytest

from umbel.errors import DataError, Interrupted, RunFolderError
from umbel.reports.page import write_page
from umbel.reports.tables import result_table
from umbel.run.record import RunRecord
from umbel.server.run import Silent
from umbel.simulations.engine import Options, resume, simulate


class Heard(Silent):
    """Stages with their parts and how far each came; Ctrl-C at the beginning of one."""

    def __init__(self, stop=None):
        self.stages, self.stop = {}, stop

    def started(self, what, total):
        self.stages[what] = [total]
        if what == self.stop:
            raise KeyboardInterrupt

    def advanced(self, done):
        self.stages[list(self.stages)[-1]].append(done)


@pytest.fixture
def head_job(job_of, tmp_path, monkeypatch):
    monkeypatch.setenv("UMBEL_CACHE", str(tmp_path / "cache"))

    def build(**sections):
        return job_of(model={"adapter": "head", "pooling": "mean"}, **sections)

    return build


@pytest.mark.parametrize("workers", [1, 2])
def test_every_text_is_counted_while_features_are_computed(head_job, tmp_path, workers):
    heard = Heard(stop="prepare")
    with pytest.raises(Interrupted):
        simulate(head_job(), Options(tmp_path / "run", workers), heard)
    total, *done = heard.stages["features"]
    assert done == sorted(done)
    assert done[-1] == total
    texts, *read = heard.stages["tokens"]
    assert read[-1] == texts >= total


@pytest.mark.parametrize("workers", [1, 2])
def test_texts_whose_features_are_kept_are_counted_at_once(head_job, tmp_path, workers):
    for name in ("first", "again"):
        heard = Heard(stop="prepare")
        with pytest.raises(Interrupted):
            simulate(head_job(), Options(tmp_path / name, workers), heard)
        total, *done = heard.stages["features"]
        assert done[-1] == total


def test_workers_keep_things_where_the_environment_says_now(head_job, tmp_path, monkeypatch):
    """And not where it said when a process's first workers were started."""
    for name in ("one", "two"):
        monkeypatch.setenv("UMBEL_CACHE", str(tmp_path / name))
        with pytest.raises(Interrupted):
            simulate(head_job(), Options(tmp_path / f"run-{name}", 2), Heard(stop="prepare"))
        assert list((tmp_path / name / "features").glob("*.npy"))


def test_ctrl_c_before_the_run_begins_writes_nothing(head_job, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "old").mkdir()
    (runs / "latest").symlink_to("old")
    for stage in ("data", "tokens", "model", "features"):
        with pytest.raises(Interrupted, match="nothing was written"):
            simulate(head_job(), Options(runs / "new", 1), Heard(stop=stage))
        assert {path.name for path in runs.iterdir()} == {"old", "latest"}
        assert (runs / "latest").resolve() == runs / "old"


def test_ctrl_c_in_the_first_round_leaves_latest_to_the_run_before(head_job, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "latest").symlink_to("old")
    (runs / "old").mkdir()
    with pytest.raises(Interrupted, match="--resume --run-dir"):
        simulate(head_job(), Options(runs / "new", 1), Heard(stop="train 1"))
    with pytest.raises(Interrupted, match="--resume --run-dir"):
        resume(runs / "new", 1, Heard(stop="model"))
    assert (runs / "latest").resolve() == runs / "old"
    assert (runs / "new" / "job.toml").exists()


def test_a_folder_that_is_not_there_is_not_resumed(tmp_path):
    with pytest.raises(RunFolderError, match="latest does not exist, so there is no run to resume"):
        resume(tmp_path / "runs" / "latest")


def shown(record):
    from rich.console import Console

    console = Console(width=200, record=True)
    console.print(result_table(record))
    return console.export_text()


def test_what_was_done_to_the_file_stands_in_result_and_page(head_job, tmp_path):
    file, test = tmp_path / "rows.csv", tmp_path / "test.jsonl"
    rows = [f"good fine {n};True;{n % 3}" for n in range(90)] + [
        f"bad {n};False;{n % 3}" for n in range(90)
    ]
    file.write_text("text;label;site\n" + "\n".join([*rows, ";True;1", "who knows;;2"]) + "\n")
    records = [{"text": f"good fine {n}", "label": True, "site": n % 3} for n in range(9)]
    test.write_text("\n".join(map(json.dumps, records)))
    data = {"path": str(file), "test_path": str(test), "labels": None}
    partition = {"partition": "column:site"}
    job = head_job(
        data=data, training={"rounds": 1}, simulation=partition, privacy={"unit": "none"}
    )
    folder = simulate(job, Options(tmp_path / "run", 1))
    result = json.loads((folder.path / "result.json").read_text())
    assert result["labels"] == ["false", "true"]
    assert result["data"]["read"] == ["rows.csv: columns separated by semicolons"]
    assert result["data"]["dropped"] == {
        "empty text": 1,
        "no label": 1,
        "the same text as a held-out record": 9,
    }
    page = write_page(folder.path, []).read_text()
    for line in (
        "rows.csv: columns separated by semicolons",
        "9 with the same text as a held-out record",
        "classes without a held-out record: 1, such as",
    ):
        assert line in page
    (row,) = [part for part in page.split("<tr>") if part.startswith("<td>false</td>")]
    assert row.count("not measured") == 3


def test_where_nothing_is_held_out_a_sentence_says_so(head_job, tmp_path):
    job = head_job(data={"test_fraction": 0.0}, training={"rounds": 1}, privacy={"unit": "none"})
    folder = simulate(job, Options(tmp_path / "run", 1))
    said = "no record is held out: set data.test_path"
    assert said in shown(RunRecord.read(folder.path))
    assert said in write_page(folder.path, []).read_text()


def test_a_language_model_is_not_charged_for_texts_without_two_tokens(job_of, tiny, tmp_path):
    path = tmp_path / "rows.jsonl"
    words = itertools.cycle("abc")
    path.write_text("\n".join(json.dumps({"text": next(words)}) for _ in range(60)))
    data = {"path": str(path), "labels": None, "end_of_text": False}
    dealt = {"partition": "iid", "clients": 3}
    job = job_of(task="causal-lm", model={"base": tiny("gpt2")}, data=data, simulation=dealt)
    with pytest.raises(DataError, match="has nothing to predict"):
        simulate(job, Options(tmp_path / "run", 1))
