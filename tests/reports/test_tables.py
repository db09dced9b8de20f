"""Tables show the measured numbers, in eighty columns, and stay short for many clients."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from umbel.quantities import duration_text, durations_text, epsilon_text, size_text
from umbel.reports.plan_table import plan_table
from umbel.reports.tables import bar, result_table
from umbel.run.record import RunRecord


def printed(renderable, width=80) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def row(text: str, start: str) -> str:
    (line,) = (line for line in text.splitlines() if line.strip().startswith(start))
    return line


def test_the_table_shows_what_was_measured(tmp_path, write_run):
    folder = write_run(tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    text = printed(result_table(RunRecord.read(folder)))
    alone = result["local_only"]["shop"]
    assert f"{alone['accuracy']:.1%}" in row(text, "shop alone")
    assert f"{alone['own']['accuracy']:.1%}" in row(text, "shop alone")
    assert f"{result['metrics']['accuracy']:.1%}" in row(text, "federated")
    assert epsilon_text(result["privacy"]["epsilon"]) in row(text, "federated")
    assert f"{result['pooled']['accuracy']:.1%}" in row(text, "pooled")
    assert "no privacy" in row(text, "pooled")
    assert "6.2 kB up per client and round, 248 kB up in all" in text
    assert "umbel predict" in text


def test_a_hundred_sites_are_one_row(tmp_path, write_run):
    folder = write_run(tmp_path / "run", clients=[f"site-{place}" for place in range(100)])
    text = printed(result_table(RunRecord.read(folder)), 100)
    assert "each of 100 sites alone" in text
    assert "site-7" not in text


def test_perplexity_goes_from_before_to_after(tmp_path, write_run):
    folder = write_run(tmp_path / "run", task="causal-lm")
    result = json.loads((folder / "result.json").read_text())
    line = row(printed(result_table(RunRecord.read(folder))), "film")
    before = result["client_initial"]["film"]["perplexity"]
    after = result["client_metrics"]["film"]["perplexity"]
    assert line.index(f"{before:.1f}") < line.index("→") < line.index(f"{after:.1f}")


def test_names_of_sites_are_whole_in_eighty_columns(tmp_path, write_run):
    names = ["north-district-childrens-hospital-department-of-cardiology", "shop"]
    for task in ("text-classification", "causal-lm"):
        folder = write_run(tmp_path / task, task=task, clients=names)
        record = RunRecord.read(folder)
        for table in (result_table(record), plan_table(record.plan)):
            text = printed(table)
            assert "…" not in text
            assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
            left = "".join(line[:30].split("  ")[0].strip() for line in text.splitlines())
            assert names[0] in left.replace(" ", ""), text


def test_the_parts_of_the_time_add_up(tmp_path, write_run):
    record = RunRecord.read(write_run(tmp_path / "run"))
    assert sum(record.stages.values()) == record.seconds
    said = re.search(r"Time (.*?) \((.*?)\)", " ".join(printed(result_table(record), 120).split()))
    names = [part.split()[0] for part in said[2].split(", ")]
    assert names == ["preparing", "rounds", "tests", "comparison"]
    assert sum(seconds_of(part) for part in said[2].split(", ")) == seconds_of(said[1]) == 83


def seconds_of(text):
    """What "1 min 23 s" comes to, in tenths rounded off."""
    worth = {"h": 3600, "min": 60, "s": 1}
    found = sum(float(n) * worth[u] for n, u in re.findall(r"([\d.]+) (h|min|s)\b", text))
    return round(found, 1)


@given(st.lists(st.floats(0, 20_000), min_size=1, max_size=5), st.floats(0, 500))
def test_what_is_shown_of_the_parts_adds_up_to_what_is_shown_of_the_whole(parts, rest):
    named = {f"part{n}": value for n, value in enumerate(parts)}
    total = sum(parts) + rest
    shown = durations_text(total, named)
    assert round(sum(map(seconds_of, shown.values())), 1) == seconds_of(duration_text(total))
    assert set(named) <= set(shown) <= {*named, "other"}


def test_names_are_never_read_as_markup(tmp_path, write_run):
    folder = write_run(tmp_path / "run", clients=["[red]film[/red]", "shop"])
    record = RunRecord.read(folder)
    assert "[red]film[/red] alone" in printed(result_table(record))
    assert "[red]film[/red]" in printed(plan_table(record.plan), 100)


def test_a_stopped_run_says_how_far_it_came_and_offers_no_prediction(tmp_path, write_run):
    text = printed(result_table(RunRecord.read(write_run(tmp_path / "run", ran=4))))
    assert "unfinished: 4 of 10 rounds" in text
    assert "so far" in text
    assert "umbel predict" not in text


def test_a_run_that_stopped_before_its_first_test_says_so_instead_of_an_empty_table(tmp_path):
    (tmp_path / "plan.json").write_text('{"name": "early", "task": "text-classification"}')
    text = printed(result_table(RunRecord.read(tmp_path)))
    assert "Nothing has been tested yet" in text
    assert "held-out records" not in text


def test_the_plan_states_guarantee_noise_and_warnings(tmp_path, write_run):
    plan = RunRecord.read(write_run(tmp_path / "run")).plan
    text = printed(plan_table(plan), 110)
    assert "(3.90, 1e-5)-differential privacy" in text
    assert "0.810" in row(text, "film")
    assert epsilon_text(plan["clients"][0]["epsilon"]) in row(text, "film")
    assert "! shop has fewer than 500 records" in text


def test_a_plan_without_privacy_is_not_called_a_guarantee(tmp_path, write_run):
    plan = RunRecord.read(write_run(tmp_path / "run", unit="none")).plan
    assert "No guarantee" in printed(plan_table(plan), 110)


def test_a_plan_says_what_the_server_sees_and_shouts_where_it_sees_all(tmp_path, write_run):
    plan = RunRecord.read(write_run(tmp_path / "run")).plan
    closed = {"mode": "secure-sum", "server_sees": "Only sums."}
    text = printed(plan_table(plan | {"encryption": closed}), 110)
    assert "What the server sees" in text
    assert "Only sums." in text
    assert "NOT ENCRYPTED" not in text
    opened = {"mode": "none", "server_sees": "Everything."}
    assert "NOT ENCRYPTED" in printed(plan_table(plan | {"encryption": opened}), 110)


def test_the_plan_of_many_clients_is_three_rows(tmp_path, write_run):
    clients = [f"site-{place}" for place in range(40)]
    plan = RunRecord.read(write_run(tmp_path / "run", clients=clients)).plan
    text = printed(plan_table(plan), 110)
    sizes = sorted(client["size"] for client in plan["clients"])
    assert f"{sizes[0]:,}" in row(text, "smallest")
    assert f"{sizes[-1]:,}" in row(text, "largest")
    assert "site-" not in text


def test_epsilon_is_never_rounded_down():
    assert epsilon_text(3.9901) == "4.00"
    assert epsilon_text(0.29) == "0.29"
    assert epsilon_text(4.0) == "4.00"


def test_sizes_change_unit_where_three_digits_end():
    assert [size_text(n) for n in (999, 1000, 999_499, 999_500)] == [
        "999 B",
        "1.0 kB",
        "999 kB",
        "1.0 MB",
    ]


def test_a_bar_is_as_long_as_its_share():
    assert bar(0, 8) == " " * 8
    assert bar(0.5, 8) == "████    "
    assert bar(1.7, 8) == "████████"


def test_tables_load_neither_matplotlib_nor_torch():
    modules = (
        "umbel.reports.tables, umbel.reports.plan_table, umbel.reports.compare, umbel.reports.page"
    )
    code = f"import sys, {modules}; print({{'matplotlib', 'torch'}} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert done.stdout.strip() == "set()"
