"""The Python face: a federation from a script or a notebook."""

import json
import subprocess
import sys
import threading

import pyarrow as pa
import pytest

import umbel
from umbel.api.in_memory import table_file
from umbel.api.sources import as_job
from umbel.errors import DataError, Interrupted, JobError, RunFolderError
from umbel.job import DataSpec
from umbel.learning.data import load_corpus
from umbel.run.record import RunRecord

NAMES = ["Job", "Run", "UmbelError", "__version__", "compare", "plan", "simulate"]


@pytest.fixture(scope="module")
def job(job_of):
    """A head on features, without noise, which is quick."""
    return job_of(
        privacy={"unit": "none"},
        encryption={"mode": "none"},
        simulation={"encryption_required": False, "clients": 2, "partition": "iid"},
        training={"rounds": 2, "local_steps": 2, "batch_size": 64},
    ).changed({"model.adapter": "head"})


@pytest.fixture(scope="module")
def run(job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("face") / "first"
    return umbel.simulate(job, run_dir=folder, workers=1, progress=False)


def test_these_names_and_no_others_are_offered():
    assert umbel.__all__ == NAMES
    assert all(getattr(umbel, name) for name in NAMES)
    assert set(NAMES) <= set(dir(umbel))
    with pytest.raises(AttributeError, match="simulat3"):
        _ = umbel.simulat3


def test_to_import_it_loads_nothing_heavy():
    script = (
        "import sys, umbel; umbel.Job, umbel.Run, umbel.plan, umbel.simulate, umbel.compare\n"
        "print(sorted({'torch', 'transformers', 'flwr', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_run_tells_what_its_folder_says(run):
    record = RunRecord.read(run.path)
    assert run.finished
    assert run.result == json.loads((run.path / "result.json").read_text())
    assert run.accuracy == run.metrics["accuracy"][-1] == record.final["accuracy"]
    assert run.metrics["round"] == [0, 1, 2]
    assert run.rounds["clients"] == [2, 2]
    assert run.clients["client"] == record.client_names
    assert run.epsilon is None
    assert (run.adapter / "umbel.json").is_file() or any(run.adapter.iterdir())
    assert run.page.name == "index.html" or run.page.suffix == ".html"
    assert run.job == umbel.Run.open(run.path).job


@pytest.mark.slow
def test_a_script_needs_no_guard_around_what_it_does(run, tmp_path):
    """multiprocessing would run it again in every worker."""
    script = tmp_path / "script.py"
    script.write_text(
        "import umbel\n"
        f"run = umbel.simulate({str(run.path / 'job.toml')!r}, workers=2, progress=False)\n"
        "print(run.result['adapter_sha256'])\n"
    )
    done = subprocess.run(
        [sys.executable, script.name], capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert done.stdout.split() == [run.result["adapter_sha256"]], done.stderr


def test_a_notebook_is_shown_the_tables_of_the_command_line(run, umbel, capsys):
    status, out, _ = umbel("report", run.path)
    assert status == 0
    shown = repr(run)
    for line in ("quick", "Accuracy", "finished"):
        assert line in out
        assert line in shown
    assert run._repr_html_().startswith("<pre")
    assert "<td>2</td>" in run.metrics._repr_html_()
    assert "accuracy" in repr(run.metrics)


def test_figures_are_those_of_the_page(run):
    figure = run.figure("learning-curve")
    assert figure.get_axes()
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(KeyError, match="learning-curve"):
        run.figure("learning curve")


def test_it_predicts_what_the_command_line_does(run, umbel):
    texts = ["a fine film", "", "dreadful"]
    found = run.predict(texts)
    assert [one.text for one in found] == texts
    assert found[1].probabilities == {}
    _, out, err = umbel("predict", run.path, *texts, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [one["probabilities"] for one in told] == [one.probabilities for one in found], err
    assert run.predict("a fine film")[0] == found[0]


def test_a_missing_text_has_no_prediction_and_what_is_no_text_is_refused(run):
    found = run.predict([None, float("nan"), "  ", "a fine film"])
    assert [bool(one.probabilities) for one in found] == [False, False, False, True]
    for wrong in ([b"abc"], ["a", 3.5]):
        with pytest.raises(DataError, match=r"Text \d is not text but \w+"):
            run.predict(wrong)


def test_in_a_notebook_a_table_is_shown_once_as_what_the_cell_gives(run, monkeypatch):
    """rich would display it by itself, and leave nothing for the cell."""
    outside = repr(run)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert repr(run) == outside != ""


def test_a_plan_is_what_the_command_line_prints(job, umbel, tmp_path, monkeypatch):
    import umbel as face

    monkeypatch.chdir(tmp_path)
    planned = face.plan(job, progress=False, training={"rounds": 5})
    assert planned.job.training.rounds == planned.values["rounds"] == 5
    assert planned.guarantee == planned.values["guarantee"]
    assert planned.epsilon is None
    assert len(planned.clients) == 2
    assert "quick" in repr(planned)
    assert list(tmp_path.iterdir()) == []


def test_runs_are_compared(run, job, tmp_path):
    other = umbel.simulate(
        job, run_dir=tmp_path / "second", workers=1, progress=False, training={"rounds": 1}
    )
    both = umbel.compare(run, other.path)
    assert both.differences["key"] == ["training.rounds"]
    assert both.differences[0] == {"key": "training.rounds", "first": 2, "second": 1}
    assert both.figure.get_axes()
    assert "first" in repr(both)
    with pytest.raises(umbel.UmbelError, match="nothing to compare"):
        umbel.compare()


def test_another_thread_stops_a_run_which_then_goes_on_to_the_same_model(run, job, tmp_path):
    stop, folder = threading.Event(), tmp_path / "stopped"
    raised = []

    def work():
        try:
            umbel.simulate(job, run_dir=folder, workers=1, progress=False, stop=stop)
        except Interrupted as error:
            raised.append(error)

    stop.set()  # while it is loaded: it ends before its first round
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(600)
    assert len(raised) == 1
    stopped = umbel.Run.open(folder)
    assert not stopped.finished
    with pytest.raises(RunFolderError, match="resume"):
        _ = stopped.result
    done = stopped.resume(workers=1, progress=False)
    assert done.result["adapter_sha256"] == run.result["adapter_sha256"]


TABLES = {
    "records": [{"text": "good", "label": "a"}, {"text": "bad", "label": "b"}],
    "tuple": ({"text": "good", "label": "a"}, {"text": "bad", "label": "b"}),
    "columns": {"text": ["good", "bad"], "label": ["a", "b"]},
    "arrow": pa.table({"text": ["good", "bad"], "label": ["a", "b"]}),
}


class Frame:
    """What knows how to write itself, as data frames and datasets do."""

    def to_parquet(self, path):
        from pyarrow import parquet

        parquet.write_table(TABLES["arrow"], path)


@pytest.mark.parametrize("table", [*TABLES.values(), Frame()], ids=[*TABLES, "frame"])
def test_a_table_in_memory_is_data_like_a_file(table):
    from pyarrow import parquet

    path = table_file(table)
    assert parquet.read_table(path).to_pydict() == TABLES["columns"]
    assert table_file(table) == path
    assert path.stat().st_mode & 0o077 == 0
    made = as_job(table, {"training": {"rounds": 3}, "model.adapter": "head"})
    assert (made.data.path, made.training.rounds, made.adapter) == (str(path), 3, "head")


def test_records_may_come_one_after_the_other():
    path = table_file(record for record in TABLES["records"])
    assert path == table_file(TABLES["records"])


def test_one_odd_value_in_a_column_of_lists_spoils_no_other():
    said = [{"role": "user", "content": "a 'b'"}, {"role": "assistant", "content": "c"}]
    path = table_file([{"messages": said}, {"messages": "odd"}, {"messages": [*said, 7]}])
    spec = DataSpec(path=str(path), text_column="messages")
    found = load_corpus(spec, "chat", declared=True)
    assert [json.loads(text) for text in found.texts] == [said]
    assert found.dropped == {"unreadable": 2}


TEST = pa.table({"text": ["fine", "poor"], "label": ["a", "b"]})


def test_tables_by_the_name_of_their_split_are_trained_and_tested_on_like_a_saved_dataset():
    both = as_job({"train": TABLES["arrow"], "test": TEST, "unsupervised": TEST}, {})
    assert both.data.path == str(table_file(TABLES["arrow"]))
    assert both.data.test_path == str(table_file(TEST))
    for table in (TEST, TEST.to_pydict()):
        told = as_job(TABLES["records"], {"data": {"test_path": table}})
        assert told.data.test_path == both.data.test_path
    alone = as_job({"validation": TEST}, {})
    assert (alone.data.path, alone.data.test_path) == (str(table_file(TEST)), None)
    with pytest.raises(DataError, match=r"^None of the tables is called 'train', but 'a', 'b'"):
        as_job({"a": TEST, "b": TEST}, {})
    with pytest.raises(DataError, match=r"^The table has no column 'label'"):
        as_job({"train": TABLES["arrow"], "test": TEST.drop_columns("label")}, {})


def test_a_table_without_the_columns_of_the_job_is_refused_and_the_cache_is_not_named():
    table = {"comment": ["good", "bad"], "good": [True, False]}
    with pytest.raises(DataError, match=r"^The table has no column 'text'.*'comment', 'good'"):
        as_job(table, {})
    with pytest.raises(DataError, match=r"^The table has no column 'label'"):
        as_job(table, {"data": {"text_column": "comment"}})
    named = {"text_column": "comment", "label_column": "good"}
    assert as_job(table, {"data": named}).data.label_column == "good"
    assert as_job(table, {"data.text_column": "comment", "task": "causal-lm"}).task == "causal-lm"
    asked = {"data": {**named, "group_column": "writer"}}
    with pytest.raises(DataError, match=r"^The table has no column 'writer'"):
        as_job(table, asked)
    with pytest.raises(DataError, match=r"^The table has no column 'site'"):
        as_job(table, {"data": named, "simulation.partition": "column:site"})


@pytest.mark.parametrize("kind", ["a job", "a job file", "a data file"])
def test_a_table_that_is_given_beside_another_source_needs_the_columns_too(kind, job, tmp_path):
    (tmp_path / "job.toml").write_text('[data]\npath = "data.csv"\n')
    (tmp_path / "data.csv").write_text("text,label\ngood,a\nbad,b\n")
    names = {"a job file": "job.toml", "a data file": "data.csv"}
    source = tmp_path / names[kind] if kind in names else job
    given = {"text": ["fine", "poor"], "label": ["a", "b"]}
    made = as_job(source, {"data": {"test_path": given}})
    assert made.data.test_path == str(table_file(given))
    with pytest.raises(DataError, match=r"^The table has no column 'label'. Its columns: 'text'"):
        as_job(source, {"data": {"test_path": {"text": ["fine", "poor"]}}})
    with pytest.raises(DataError, match=r"^The table has no column 'label'. Its columns: 'text'"):
        as_job(source, {"data.path": [{"text": "fine"}]})


def test_a_column_of_several_types_is_one_of_text():
    from pyarrow import parquet

    rows = {"text": ["a", None, 3], "part": [1, 2.5, float("nan")], "tags": [["x"], None, []]}
    as_rows = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    for table in (rows, as_rows):
        found = parquet.read_table(table_file(table)).to_pydict()
        assert found == {"text": ["a", None, "3"], "part": [1, 2.5, None], "tags": rows["tags"]}


def test_a_run_has_the_name_of_its_file(tmp_path):
    path = tmp_path / "my tickets (June).2026.csv"
    path.write_text("text,label\n" + "".join(f"t{i},{'ab'[i % 2]}\n" for i in range(40)))
    assert as_job(path, {}).name == "my-tickets-June"
    assert as_job(path, {"name": "mine"}).name == "mine"
    assert as_job(TABLES["records"], {}).name == "table"


@pytest.mark.parametrize(
    "what", [7, [1, 2], ["a text"], {"text": 3}, object(), {"a": [1], "b": [1, 2]}]
)
def test_what_is_not_a_table_is_refused_in_one_sentence(what):
    with pytest.raises(DataError, match="cannot be read as a table"):
        table_file(what)


def test_sections_change_a_job_and_wrong_ones_are_named(job, tmp_path):
    assert as_job(job, {}) is job
    changed = as_job(job, {"training": {"rounds": 9}})
    assert changed.training.rounds == 9
    assert changed.model == job.model
    # A learning rate that came with the adapter goes with it.
    plain = as_job("data.csv", {"model.adapter": "lora"})
    head = as_job(plain, {"model.adapter": "head"})
    assert (
        head.training.learning_rate
        == as_job("data.csv", {"model.adapter": "head"}).training.learning_rate
    )
    assert head.training.learning_rate != plain.training.learning_rate
    with pytest.raises(JobError, match="rounds"):
        as_job(job, {"training": {"round": 9}})
    (tmp_path / "my.toml").write_text('[data]\npath = "x.csv"\n')
    loaded = umbel.Job.load(tmp_path / "my.toml", training={"rounds": 4})
    assert loaded.training.rounds == 4
    assert loaded == as_job(tmp_path / "my.toml", {"training": {"rounds": 4}})
