"""A comparison names what differs between runs, and refuses what has no common measure."""

from __future__ import annotations

import pytest
from rich.console import Console

from umbel.errors import UmbelError
from umbel.reports.compare import compare, differing_keys


def printed(renderable) -> str:
    console = Console(width=140)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_only_keys_that_differ_are_named(tmp_path, write_run):
    first = write_run(tmp_path / "a", name="a")
    second = write_run(tmp_path / "b", name="b", unit="none", rounds=5)
    table, picture, _ = compare([first, second], tmp_path / "both.png")
    text = printed(table)
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert rows["privacy.unit"] == ["example", "none"]
    assert rows["training.rounds"] == ["10", "5"]
    assert "no privacy" in text
    assert "data.path" not in text
    assert "privacy.epsilon" not in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_default_that_only_one_job_writes_down_is_no_difference(tmp_path, write_run):
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b", job='\n[strategy]\nname = "fedavg"\n')
    text = printed(compare([first, second], tmp_path / "both.png")[0])
    assert "strategy" not in text
    assert "\n a " in text
    assert "\n b " in text


def test_the_picture_lies_beside_the_runs_by_default(tmp_path, write_run):
    picture = compare([write_run(tmp_path / "a"), write_run(tmp_path / "b", ran=3)]).picture
    assert picture == tmp_path / "comparison.png"


def test_runs_of_different_tasks_are_refused_also_under_one_name(tmp_path, write_run):
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b", task="causal-lm")
    with pytest.raises(UmbelError, match=r"different tasks.* a: .* b: causal-lm"):
        compare([first, second], None)


def test_of_hundreds_of_classes_the_first_are_shown_with_the_number_of_the_others(
    tmp_path, write_run
):
    names = [f"class-{n:03}" for n in range(300)]
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b")
    job = (second / "job.toml").read_text()
    (second / "job.toml").write_text(job.replace("[data]\n", f"[data]\nlabels = {names}\n"))
    text = printed(compare([first, second], tmp_path / "both.png")[0])
    assert "and 288 more" in text
    assert "class-011" in text
    assert "class-012" not in text


def test_what_a_recipe_says_of_itself_is_no_difference():
    jobs = [{"recipe": f"training.rounds: chosen for {n} clients", "rounds": n} for n in (4, 8)]
    assert differing_keys(jobs) == {"rounds": [4, 8]}


def test_a_key_that_one_job_lacks_is_a_difference():
    jobs = [{"name": "a", "x": {"y": 1}}, {"name": "b", "x": {}}]
    assert differing_keys(jobs) == {"x.y": [1, None]}


def test_what_a_pattern_of_the_shell_finds_is_compared_once_and_without_pictures(
    tmp_path, write_run
):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", ran=3)
    (tmp_path / "latest").symlink_to("b")
    for _ in range(2):
        found = sorted(tmp_path.iterdir())
        text = printed(compare(found)[0])
        assert text.count("\n a ") == text.count("\n b ") == 1
        assert "latest" not in text
    assert "Left out" in text
    assert "comparison.png" in text
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("deleted")
    assert printed(compare(sorted(tmp_path.iterdir())).table).count("\n a ") == 1
    with pytest.raises(UmbelError, match="is a file"):
        compare([tmp_path / "comparison.png"])
    with pytest.raises(UmbelError, match="does not exist"):
        compare([first, second, tmp_path / "c"])
