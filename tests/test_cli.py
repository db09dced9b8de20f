"""What a person meets at the command line."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from umbel.job import Job, reference
from umbel.quantities import OUTWEIGHED

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def umbel(umbel, monkeypatch, tmp_path):
    """The same, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return umbel


@pytest.fixture
def simulate(umbel, reviews_csv, tiny_bert):
    """A quick simulation of four sites, with more arguments."""

    def run(*arguments):
        return umbel(
            "simulate", "--data", reviews_csv, "--partition", "column:site", "--model", tiny_bert,
            "--workers", "1", "--set", "training.rounds=2", "--set", "training.local_steps=2",
            "--set", "training.batch_size=8", *arguments,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def tiny_bert(tiny):
    return tiny("bert")


def shown(out):
    """What stands on a terminal, in one line."""
    return " ".join(out.split())


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_a_csv_and_one_command_give_a_model_that_predicts(simulate, umbel, tmp_path):
    status, out, err = simulate("--run-dir", "first")
    assert status == 0, err
    result = json.loads((tmp_path / "first" / "result.json").read_text())
    assert result["privacy"]["epsilon"] <= 8
    # Noise outweighs the counts of so few records: then no accuracy is seen, and that is shown.
    plan = json.loads((tmp_path / "first" / "plan.json").read_text())
    assert plan["evaluation"]["deviation"] > OUTWEIGHED
    assert "as a server sees it not defined" in shown(out)
    assert (tmp_path / "first" / "report.html").stat().st_size > 10_000
    assert {p.name for p in (tmp_path / "first" / "plots").iterdir()} == {
        f"{name}.{kind}"
        for name in ("confusion", "epsilon", "learning-curve", "partition")
        for kind in ("png", "svg")
    }
    write(tmp_path / "lines.txt", "good\n\nbad\n")
    status, out, err = umbel("predict", "first", "a fine day", "--file", "lines.txt", "--json")
    assert status == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == ["a fine day", "good", "", "bad"]
    sums = [sum(row["probabilities"].values()) for row in rows]
    assert sums == pytest.approx([1, 1, 0, 1], abs=1e-5)
    # Of a table it reads the column that the run read, unless another is named.
    shutil.copytree(tmp_path / "first", tmp_path / "renamed")
    job = (tmp_path / "first" / "job.toml").read_text()
    renamed = job.replace('text_column = "text"', 'text_column = "words"')
    write(tmp_path / "renamed" / "job.toml", renamed)
    write(tmp_path / "texts.csv", "text,words\nno,a fine day\n")
    for run, said in (("first", "no"), ("renamed", "a fine day")):
        status, out, err = umbel("predict", run, "--file", "texts.csv", "--json")
        assert (status, json.loads(out)["text"]) == (0, said), err
    shutil.rmtree(tmp_path / "renamed")
    # What a shell finds is compared as often as somebody asks, pictures of earlier comparisons beside it.
    for _ in range(2):
        found = sorted(path.name for path in tmp_path.iterdir())
        status, out, err = umbel("compare", *found, "--json")
        assert status == 0, err
        assert [run["run"] for run in json.loads(out)["runs"]] == ["first"]
    # To programs it says the same.
    found = {}
    for command in ("report", "compare", "certify", "verify"):
        status, out, err = umbel(command, "first", "--json")
        assert status == 0, err
        found[command] = json.loads(out)
    assert found["report"]["result"] == found["compare"]["runs"][0]["result"] == result
    assert (tmp_path / found["report"]["page"]).is_file()
    assert (tmp_path / found["certify"]["certificate"]).is_file()
    assert found["verify"]["valid"] is True


def test_the_best_model_on_a_public_file_is_kept_and_said_everywhere(simulate, umbel, tmp_path):
    # Nothing is better on it than the untrained model, which says "negative" of everything.
    write(tmp_path / "public.csv", "text,label\n" + "a fine day,negative\n" * 5)
    wanted = [
        "--set", "evaluation.public_path=public.csv", "--set", "evaluation.keep=best",
        "--set", "evaluation.patience=1",
    ]  # fmt: skip
    status, out, err = simulate("--run-dir", "chosen", *wanted)
    assert status == 0, err
    result = json.loads((tmp_path / "chosen" / "result.json").read_text())
    assert (result["rounds"], result["kept"]["round"]) == (1, 0)
    assert result["public"]["metrics"]["accuracy"] == 1.0
    ended = "Training ended early, after round 1: no better accuracy in 1 test since round 0"
    kept = "The model after round 0 is the result, the best by accuracy 100.0% (public hold-out)"
    page = (tmp_path / "chosen" / "report.html").read_text()
    card = (tmp_path / "chosen" / "adapter" / "README.md").read_text()
    shown = " ".join(out.split())
    for text in (shown, page):
        assert ended in text
        assert kept in text
    assert "Public hold-out accuracy 100.0%" in shown
    assert "<h2>Public hold-out</h2>" in page
    assert "on 5 public records" in card
    assert "This is the model after round 0 of 1" in card
    certificate = json.loads((tmp_path / "chosen" / "certificate.json").read_text())
    assert certificate["rounds"]["kept"] == 0
    assert certificate["public"]["figures"]["accuracy"] == 1.0
    status, out, err = umbel("verify", "chosen")
    assert status == 0, out + err


def test_a_public_file_that_is_missing_is_said_before_anything_runs(simulate, tmp_path):
    status, _, err = simulate("--set", "evaluation.public_path=nowhere.csv")
    assert status == 2
    assert "evaluation.public_path: There is no data file" in err
    assert not (tmp_path / "runs").exists()


def test_a_plan_says_what_is_tested_and_decided_on(simulate, umbel, reviews_csv, tiny_bert):
    status, out, err = umbel(
        "plan", "--data", reviews_csv, "--model", tiny_bert, "--set", "evaluation.patience=3",
        "--set", "evaluation.every=2", "--set", "training.rounds=10",
    )  # fmt: skip
    assert status == 0, err
    shown = " ".join(out.split())
    assert "6 times, before training and after rounds 2, 4, 6, 8, 10, private counts" in shown
    assert "ends after 3 tests without a better one" in shown
    assert "(decided on: private counts)" in shown


def test_the_template_is_a_job_that_can_be_planned(umbel, reviews_csv, tiny_bert, tmp_path):
    status, _, err = umbel("init", "my job.toml", "--data", reviews_csv, "--model", tiny_bert)
    assert status == 0, err
    assert tomllib.loads((tmp_path / "my job.toml").read_text())["name"] == "my-job"
    status, out, err = umbel("plan", "my job.toml", "--json", "--set", "training.rounds=3")
    assert status == 0, err
    planned = json.loads(out)
    assert planned["rounds"] == 3
    assert 0 < max(client["epsilon"] for client in planned["clients"]) <= 8
    assert "differential privacy" in planned["guarantee"]
    assert not (tmp_path / "runs").exists()


def test_a_template_names_the_columns_that_a_file_has_where_that_is_clear(umbel, tmp_path):
    rows = [
        f"Der {n}. Besuch war {'gut' if n % 2 else 'schlecht'};{n % 2};ward {n % 3}"
        for n in range(60)
    ]
    write(tmp_path / "export.csv", "\n".join(["Meldungstext;Urteil;Station", *rows]))
    status, out, err = umbel("init", "job.toml", "--data", "export.csv", "--json")
    assert status == 0, err
    assert json.loads(out)["seeming"] == {"data.text_column": "Meldungstext"}, "two may be classes"
    write(
        tmp_path / "two.csv",
        "\n".join(["Meldungstext;Urteil", *(r.rpartition(";")[0] for r in rows)]),
    )
    for options, label in ((), "Urteil"), (("--label-column", "Note"), "Note"):
        (tmp_path / "job.toml").unlink()
        status, _, err = umbel("init", "job.toml", "--data", "two.csv", *options)
        assert status == 0, err
        data = tomllib.loads((tmp_path / "job.toml").read_text())["data"]
        assert (data["text_column"], data["label_column"]) == ("Meldungstext", label)


def test_every_field_of_a_job_stands_in_the_template_with_its_default(tmp_path):
    path = tmp_path / "job.toml"
    reference.write_template(path, {})
    uncommented = "\n".join(
        line.removeprefix("# ") if re.match(r"# \w+ = ", line) else line
        for line in path.read_text().splitlines()
        if not line.endswith(" =")
    )
    values = tomllib.loads(uncommented)
    assert Job.build(values) == Job.build({"name": "job", "data": {"path": "data.csv"}})
    for section in ("model", "training", "privacy"):
        assert len(values[section]) >= 4


def test_init_does_not_overwrite_a_file(umbel, tmp_path):
    write(tmp_path / "job.toml", "precious")
    status, _, err = umbel("init", "job.toml")
    assert status == 2
    assert "exists already" in err
    assert (tmp_path / "job.toml").read_text() == "precious"


def test_the_reference_in_the_documents_is_what_the_code_says():
    assert (ROOT / "docs" / "job-reference.md").read_text() == reference.reference() + "\n"


def test_the_examples_are_valid_jobs():
    examples = sorted((ROOT / "examples").glob("*.toml"))
    assert len(examples) >= 4
    for path in examples:
        assert Job.load(path).name == path.stem


HEAVY = {"torch", "transformers", "flwr", "numpy", "pydantic", "rich"}


def test_help_loads_no_heavy_library():
    program = (
        "import sys; sys.argv = ['umbel', '--help']\n"
        "from umbel.cli import main\n"
        "try: main()\n"
        f"finally: print(sorted({HEAVY} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600
    )
    assert shown.stdout.splitlines()[-1] == "[]"


TEXTS = "".join(f"text number {i},{'ab'[i % 2]}\n" for i in range(40))

BAD_DATA = {
    "empty": ("", [], "is empty"),
    "header_only": ("text,label\n", [], "no rows"),
    "one_class": ("text,label\na b,x\nc d,x\n", [], "every row"),
    "missing_column": ("txt,label\na,x\nb,y\n", [], "Did you mean 'txt'?"),
    "too_many_clients": ("text,label\n" + TEXTS, ["--clients", "500"], "500 clients"),
    "labels_differ": (
        "text,label,site\na,pos,A\nb,neg,A\nc,1,B\nd,0,B\n",
        ["--partition", "column:site"],
        "which no other client has",
    ),
    "label_never_seen": (
        "text,label\n" + TEXTS,
        ["--set", "data.labels=['a', 'c']"],
        "'b'",
    ),
    "delta_too_large": ("text,label\n" + TEXTS, ["--set", "privacy.delta=0.5"], "privacy.delta"),
    "epsilon_out_of_reach": (
        "text,label\n" + TEXTS,
        ["--set", "privacy.epsilon=0.1001", "--set", "evaluation.counts='off'"],
        "the least that can be met is epsilon",
    ),
    "head_of_a_language_model": (
        "text,label\n" + TEXTS,
        ["--task", "causal-lm", "--set", "model.adapter=head"],
        "model.adapter",
    ),
    "weights_tell_sizes": (
        "text,label\n" + TEXTS,
        ["--set", "strategy.weighting=examples"],
        "strategy.weighting",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_input_is_one_clear_paragraph_and_leaves_nothing_behind(
    case, umbel, tiny_bert, tmp_path
):
    content, arguments, expected = BAD_DATA[case]
    data = write(tmp_path / "data.csv", content)
    status, _, err = umbel(
        "simulate", "--data", data, "--model", tiny_bert, "--workers", "1", *arguments
    )
    assert status == 2, err
    message = err[err.index("umbel: ") :]
    assert expected in message
    assert "Traceback" not in err
    assert len(message.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.csv"]


BAD_JOBS = {
    "unknown_key": (["--set", "training.round=3"], "did you mean 'rounds'?"),
    "no_rounds": (["--set", "training.rounds=0"], "training.rounds"),
    "not_a_number": (["--set", "privacy.epsilon=much"], "privacy.epsilon"),
    "strategy": (["--set", "strategy.name=fedsgd"], "fedavgm"),
    "partition": (["--partition", "zipf"], "dirichlet:ALPHA"),
    "no_workers": (["--workers", "0"], "workers"),
}


@pytest.mark.parametrize("case", BAD_JOBS)
def test_a_wrong_value_is_named_with_what_would_be_right(case, simulate, tmp_path):
    arguments, expected = BAD_JOBS[case]
    status, _, err = simulate(*arguments)
    assert status == 2, err
    assert expected in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_text_of_several_encodings_is_refused_with_its_place(umbel, tiny_bert, tmp_path):
    data = tmp_path / "data.csv"
    data.write_bytes("text,label\ncafé,x\n".encode() + "thé,y\n".encode("latin-1"))
    status, _, err = umbel("simulate", "--data", data, "--model", tiny_bert)
    assert status == 2
    assert "line 3" in err
    assert "mixes encodings" in err


def test_a_model_without_weights_is_refused(simulate, tiny_bert, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_bert, folder)
    (folder / "model.safetensors").unlink()
    status, _, err = simulate("--model", folder)
    assert status == 2
    assert "no weights" in err


def test_a_run_folder_that_exists_is_not_touched(simulate, tmp_path):
    (tmp_path / "taken").mkdir()
    write(tmp_path / "taken" / "thesis.tex", "three years")
    status, _, err = simulate("--run-dir", "taken")
    assert status == 2
    assert "--run-dir" in err
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["thesis.tex"]


def test_a_finished_run_and_another_job_are_not_resumed(simulate, umbel):
    assert simulate("--run-dir", "runs/one")[0] == 0
    status, _, err = umbel("simulate", "--resume", "--run-dir", "runs/one")
    assert status == 2
    assert "finished" in err
    status, _, err = simulate("--resume", "--set", "seed=5")
    assert status == 2
    assert "another job" in err


def test_runs_are_compared_by_what_differs(simulate, umbel, tmp_path):
    assert simulate("--run-dir", "runs/a")[0] == 0
    assert simulate("--run-dir", "runs/b", "--set", "training.learning_rate=0.02")[0] == 0
    status, out, err = umbel("compare", "runs/a", "runs/b", "--out", "both.png")
    assert status == 0, err
    assert "learning_rate" in out
    assert (tmp_path / "both.png").stat().st_size > 5_000


def test_what_names_a_job_is_asked_for_alike_and_in_one_order():
    import typer

    from umbel.cli.commands import app

    commands = typer.main.get_command(app).commands
    plan, simulate = (
        {o.name: (o.opts, o.help) for o in commands[name].params} for name in ("plan", "simulate")
    )
    shared = [name for name in plan if name in simulate]
    assert shared[0] == "job"
    assert shared == [name for name in simulate if name in plan]
    assert {name: plan[name] for name in shared} == {name: simulate[name] for name in shared}
    assert set(shared) >= {o.name for o in commands["init"].params}
