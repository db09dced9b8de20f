"""What a shell is given when somebody presses TAB, by the protocol of each shell."""

import pytest

from umbel.client.decisions import Decisions
from umbel.job import Job


@pytest.fixture
def complete(umbel, monkeypatch, tmp_path):
    """The words that could stand at the end of a line, in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UMBEL_CONSORTIUM", raising=False)

    def ask(line, shell="bash"):
        words = line.split(" ")
        monkeypatch.setenv("_UMBEL_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("COMP_WORDS", " ".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        status, out, err = umbel()
        assert (status, err) == (0, "")
        return [word for word in out.split("\n") if word] if shell == "bash" else out

    return ask


def folder(path, *files):
    path.mkdir(parents=True)
    for name in files:
        (path / name).write_text("")
    return path


def test_commands_and_options_are_completed(complete):
    assert sorted(complete("umbel si")) == ["sign", "simulate"]
    assert complete("umbel client jobs s") == ["show"]
    assert complete("umbel plan --part") == ["--partition"]


def test_values_that_umbel_itself_has_are_completed(complete):
    assert complete("umbel simulate --task cau") == ["causal-lm"]
    assert complete("umbel init --task text") == ["text-classification"]
    assert complete("umbel plan --partition ") == ["iid", "dirichlet:0.5", "shards:2", "column:"]
    assert complete("umbel strategies feda") == ["fedavg", "fedavgm", "fedadam", "fedadagrad"]
    assert complete("umbel plan --set training.rou") == ["training.rounds="]
    assert "simulation.partition=" in complete("umbel simulate --set ")


def test_job_files_run_folders_and_owners_are_completed_by_what_is_in_them(complete, tmp_path):
    folder(tmp_path / "jobs", "a.toml", "b.toml", "notes.txt")
    folder(tmp_path / "runs" / "night", "job.toml", "plan.json")
    folder(tmp_path / "runs" / "day", "job.toml")
    folder(tmp_path / "mary", "client.toml")
    folder(tmp_path / "hospitals", "limits.json")
    (tmp_path / "c.toml").write_text("")
    assert complete("umbel plan ") == ["c.toml", "jobs/a.toml", "jobs/b.toml"]
    assert complete("umbel simulate jobs/b") == ["jobs/b.toml"]
    assert complete("umbel report ") == ["runs/day", "runs/night"]
    assert complete("umbel compare runs/day runs/n") == ["runs/night"]
    assert complete("umbel ledger show m") == ["mary"]
    assert complete("umbel client check ") == ["mary"]
    assert complete("umbel runs --consortium ") == ["hospitals"]
    assert "runs/night" in complete("umbel record runs/", shell="zsh")
    assert complete("umbel plan notes") == []  # the shell goes on with names of files


def test_runs_are_completed_for_an_operator_and_an_owner(complete, tmp_path, monkeypatch):
    folder(tmp_path / "hospitals" / "runs" / "night-1")
    assert complete("umbel status --consortium hospitals n") == ["night-1"]
    monkeypatch.setenv("UMBEL_CONSORTIUM", "hospitals")
    assert complete("umbel logs ") == ["night-1"]
    job = Job.build({"data": {"labels": ["a", "b"]}})
    Decisions(tmp_path / "decisions").note("night-2", job, "", "job refused", "a reason")
    assert complete("umbel client jobs show ") == ["night-2"]
    assert complete("umbel client record ") == ["night-2"]


def test_nothing_that_a_shell_would_run_or_that_is_damaged_is_given(complete, tmp_path):
    for name in ("$(touch x).toml", "`id`.toml", 'a"b.toml', "a b.toml", "a;b.toml", "a\nb.toml"):
        (tmp_path / name).write_text("")
    (tmp_path / "北京.toml").write_text("")
    assert complete("umbel plan ") == ["北京.toml"]
    assert "touch" not in complete("umbel plan ", shell="zsh")
    folder(tmp_path / "decisions", "00.json")
    assert complete("umbel client record ") == []
    assert complete("umbel plan nowhere/x") == []
    before = sorted(tmp_path.rglob("*"))
    complete("umbel status ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_can_be_shown(umbel, shell, monkeypatch):
    import shellingham

    monkeypatch.setattr(shellingham, "detect_shell", lambda: (shell, f"/bin/{shell}"))
    status, out, err = umbel("--show-completion")
    assert status == 0, err
    assert "_UMBEL_COMPLETE=complete_" in out
