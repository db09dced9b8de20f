"""`umbel ledger` as its owner and an auditor use it."""

import csv
import hashlib
import io
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from umbel.cli.commands import app
from umbel.client.forecast import MOST_JOBS, forecast
from umbel.client.home import Home
from umbel.client.policy import write_policy_template
from umbel.errors import LedgerError, PlanRefused
from umbel.job import Job
from umbel.planning.noise import private_recipe
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.ledger.ledger import Ledger

EVENT = MechanismEvent(2.0, 0.1, 4)
COUNTS = MechanismEvent(20.0, 1.0, 1, "concentrated")
ROWS = [f"a record of {number} words, more or less" for number in range(400)]
DATASET = "5eed" * 8
DECLARED = 'text_column = "text"\nlabel_column = "label"\nlabels = ["a", "b"]\n'
JOB = """
name = "again"
task = "text-classification"
[model]
base = "some/model"
[data]
path = "nowhere.csv"
[training]
rounds = 5
local_steps = 4
batch_size = 32
[privacy]
epsilon = 2.0
delta = 1e-5
limit = 5.0
"""


@pytest.fixture
def home(tmp_path):
    """An owner's folder with data of its own, a round of training and one of noised counts."""
    folder = tmp_path / "mary"
    folder.mkdir()
    with (tmp_path / "notes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, "ab"[n % 2]] for n, text in enumerate(ROWS))
    (folder / "client.toml").write_text('name = "mary"\n[data]\npath = "../notes.csv"\n' + DECLARED)
    write_policy_template(folder / "policy.toml")
    (folder / "account.json").write_text(json.dumps({"account": DATASET, "sizes": 1, "size": 410}))
    with Ledger(folder / "ledger.sqlite") as ledger:
        for n, event in enumerate([EVENT, EVENT, COUNTS]):
            ledger.reserve(DATASET, event, job="job1", key=f"run/{n}/0", delta=1e-6, limit=100)
    return folder


@pytest.fixture
def job(tmp_path):
    path = tmp_path / "again.toml"
    path.write_text(JOB)
    return path


def umbel(*words, code=0):
    result = CliRunner().invoke(app, ["ledger", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.stdout


def test_without_a_command_it_is_shown(home, monkeypatch):
    shown = umbel("show", home)
    assert "all runs" in shown
    assert umbel(home) == shown
    assert json.loads(umbel(home, "--json")) == json.loads(umbel("show", home, "--json"))
    monkeypatch.chdir(home)
    assert umbel() == shown


def test_verify_says_how_much_there_is_and_compares_a_head(home):
    told = umbel("verify", home)
    assert "3 rows" in told
    head = told.split("head ")[1].strip()
    assert umbel("verify", home, "--head", head) == told
    result = CliRunner().invoke(app, ["ledger", "verify", str(home), "--head", "0" * 64])
    assert isinstance(result.exception, LedgerError)


def rehashed(previous, identity, row):
    """By the recipe of docs/ledger.md."""
    return hashlib.sha256(json.dumps([previous, identity, *row]).encode()).hexdigest()


def test_a_json_export_can_be_verified_without_umbel(home, tmp_path):
    umbel("export", home, "--format", "json", "--out", tmp_path / "ledger.json")
    told = json.loads((tmp_path / "ledger.json").read_text())
    previous = told["genesis"]
    for *row, stored in told["rows"]:
        previous = rehashed(previous, told["ledger"], row)
        assert previous == stored
    with Ledger(home / "ledger.sqlite") as ledger:
        assert previous == told["head"] == ledger.head()
    assert dict(zip(told["columns"], told["rows"][2], strict=True))["kind"] == "concentrated"


def test_the_script_of_the_documents_verifies_an_export_and_finds_an_edit(
    home, tmp_path, monkeypatch
):
    page = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
    script = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "ledger.json"
    umbel("export", home, "--format", "json", "--out", file)
    exec(script, {})
    told = json.loads(file.read_text())
    told["rows"][1][told["columns"].index("steps")] -= 1
    file.write_text(json.dumps(told))
    with pytest.raises(AssertionError, match="2"):
        exec(script, {})


def test_a_csv_export_can_be_verified_without_umbel(home):
    rows = list(csv.DictReader(io.StringIO(umbel("export", home))))
    previous = hashlib.sha256(b"umbel privacy ledger").hexdigest()
    numbers = {"number": int, "noise_multiplier": float, "sampling_rate": float, "steps": int,
               "delta": float, "epsilon_limit": float, "replay": int, "version": int}  # fmt: skip
    for row in rows:
        stored, identity = row.pop("hash"), row.pop("ledger")
        values = [numbers.get(name, str)(value) for name, value in row.items()]
        previous = rehashed(previous, identity, values)
        assert previous == stored
    assert len(rows) == 3


def test_the_picture_is_one_that_a_browser_opens(home, tmp_path):
    umbel("show", home, "--plot", tmp_path / "spent.svg")
    assert ET.parse(tmp_path / "spent.svg").getroot().tag.endswith("svg")
    umbel("show", home, "--plot", tmp_path / "spent.png")
    assert (tmp_path / "spent.png").read_bytes().startswith(b"\x89PNG")


def test_a_forecast_is_what_the_ledger_would_charge(home, job):
    told = json.loads(umbel("forecast", job, home, "--times", 10, "--json"))
    loaded = Job.load(job)
    assert told["dataset"] == DATASET
    # The published size of the account and the declared share: 410 and 0.8.
    recipe = private_recipe(loaded, 328, 5, tests=6)
    asked = [recipe.planned[what] for what in ("training", "tests")]
    with Ledger(home / "ledger.sqlite") as ledger:
        events = [EVENT, EVENT, COUNTS, *asked]
        assert epsilon(events, 1e-5) == told["after"][0]
        assert told["spent"] == ledger.spent(DATASET, 1e-5)
        for n, event in enumerate(asked * told["fits_job"]):
            ledger.reserve(DATASET, event, job="j", key=f"new/{n}/0", delta=1e-5, limit=5.0)
        assert ledger.spent(DATASET, 1e-5) == told["after"][told["fits_job"] - 1]
        assert epsilon([*ledger.events(DATASET), *asked], 1e-5) > 5.0
    assert 0 < told["fits_job"] < told["fits"] < MOST_JOBS
    assert told["limit"] == 10.0


def test_a_forecast_writes_nothing_and_says_what_would_be_refused(home, job):
    before = (home / "ledger.sqlite").read_bytes()
    told = umbel("forecast", job, home, "--times", 60)
    assert "spent so far" in told
    assert "refused: beyond the job's own limit" in told
    assert "refused: beyond the owner's limit" in told
    assert "This owner's limit of 10 has room for" in told
    assert (home / "ledger.sqlite").read_bytes() == before


def test_a_job_without_privacy_cannot_be_forecast(home, job):
    job.write_text(JOB.replace("[privacy]", '[privacy]\nunit = "none"'))
    with pytest.raises(PlanRefused, match="spends no epsilon"):
        forecast(Home(home), Job.load(job), 2)


def test_a_ledger_that_was_rolled_back_is_refused_and_recovered(home, tmp_path):
    shutil.copy(home / "ledger.sqlite", tmp_path / "backup")
    with Ledger(home / "ledger.sqlite") as ledger:
        ledger.reserve(DATASET, EVENT, job="job1", key="run/4/0", delta=1e-6, limit=100)
    shown = umbel("show", home)
    shutil.copy(tmp_path / "backup", home / "ledger.sqlite")
    for command in ("show", "verify", "export"):
        result = CliRunner().invoke(app, ["ledger", command, str(home)])
        assert isinstance(result.exception, LedgerError)
        assert "umbel ledger recover" in str(result.exception)
    assert "Restored 1 rows; the ledger has 4." in umbel("recover", home)
    assert umbel("show", home) == shown


def test_a_deleted_ledger_is_not_a_fresh_one(home):
    (home / "ledger.sqlite").unlink()
    result = CliRunner().invoke(app, ["ledger", "show", str(home)])
    assert isinstance(result.exception, LedgerError)
    assert "Restored 3 rows" in umbel("recover", home)


def test_what_an_owner_accepted_is_no_data_set(home):
    shown = umbel("show", home, "--json")
    (home / "ledger.witness").unlink()
    umbel("recover", home, "--accept")
    assert umbel("show", home, "--json") == shown
