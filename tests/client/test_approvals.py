"""Manual approval: what waits, what an answer covers, and how a person gives it."""

import json
import stat
import sys
from datetime import UTC, datetime, timedelta

import pytest
import typer

from umbel.cli import owner as owner_commands
from umbel.client.approvals import MOST_PENDING, Approvals
from umbel.client.audit_log import AuditLog
from umbel.client.policy import NotYet
from umbel.errors import LedgerError, PlanRefused, UmbelError
from umbel.job import Job

OPERATOR = "a" * 64


@pytest.fixture
def job():
    return Job.build({"name": "reviews", "data": {"path": "data.csv"}})


@pytest.fixture
def home(tmp_path):
    (tmp_path / "client.toml").touch()
    return tmp_path


@pytest.fixture
def approvals(home):
    return Approvals(home / "jobs")


@pytest.fixture
def waiting(approvals, job):
    """The id of a request that waits."""
    with pytest.raises(NotYet):
        approvals.ask(job, "run", OPERATOR)
    [request] = approvals.list()
    return request.id


@pytest.fixture
def owner(monkeypatch, capsys):
    """Run one of the owner's commands; what it printed."""

    def run(*arguments):
        typer.main.get_command(owner_commands.owner_app)(
            [str(argument) for argument in arguments], standalone_mode=False
        )
        return capsys.readouterr().out

    return run


def test_a_run_waits_until_it_is_approved(approvals, job, waiting):
    with pytest.raises(NotYet, match=f"umbel client approve {waiting[:12]}"):
        approvals.ask(job, "run", OPERATOR)
    assert len(approvals.list()) == 1
    approvals.approve(waiting[:6])
    approvals.ask(job, "run", OPERATOR)
    Approvals(approvals.folder).ask(job, "run", OPERATOR)


def test_a_denied_run_hears_why_and_is_refused_for_good(approvals, job, waiting):
    approvals.deny(waiting, "ask the ethics board first")
    with pytest.raises(PlanRefused, match="ask the ethics board first") as error:
        approvals.ask(job, "run", OPERATOR)
    assert not isinstance(error.value, NotYet)


def test_an_approval_can_be_taken_back(approvals, job, waiting):
    approvals.approve(waiting)
    approvals.deny(waiting)
    with pytest.raises(PlanRefused, match="denied"):
        approvals.ask(job, "run", OPERATOR)


def test_an_approval_covers_one_run_of_one_job_by_one_operator(approvals, job, waiting):
    """Another run of the same job costs its epsilon again."""
    approvals.approve(waiting)
    other = job.model_copy(update={"seed": 1})
    for request in ((other, "run", OPERATOR), (job, "run2", OPERATOR), (job, "run", "b" * 64)):
        with pytest.raises(NotYet):
            approvals.ask(*request)
    assert len(approvals.list()) == 4


def test_a_request_shows_what_it_is_about_and_the_whole_job(approvals, job, waiting):
    [request] = approvals.list()
    assert request.summary.name == "reviews"
    assert (request.summary.epsilon, request.summary.delta) == (4.0, 1e-5)
    assert request.operator == OPERATOR
    assert Job.build(request.job).digest() == job.digest() == request.job_digest


def test_only_the_owner_can_read_requests(approvals, waiting):
    [path] = approvals.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_server_cannot_fill_the_disk_with_requests(approvals, job, waiting):
    for number in range(MOST_PENDING + 5):
        with pytest.raises(NotYet):
            approvals.ask(job, f"run-{number}", OPERATOR)
    assert len(approvals.list()) == MOST_PENDING
    approvals.approve(waiting)
    approvals.ask(job, "run", OPERATOR)


def test_a_job_too_large_to_be_read_by_anybody_is_not_kept(approvals, job):
    data = job.data.model_copy(update={"labels": [str(n) for n in range(100_000)]})
    with pytest.raises(PlanRefused, match="too large"):
        approvals.ask(job.model_copy(update={"data": data}), "run", OPERATOR)
    assert approvals.list() == ()


def test_an_id_must_mean_exactly_one_request(approvals, job, waiting):
    for prefix in ("", "no such id"):
        with pytest.raises(UmbelError, match=f"No requests begin with.*{waiting[:12]}"):
            approvals.approve(prefix)
    prefix = waiting[0]
    number = 0
    while sum(request.id.startswith(prefix) for request in approvals.list()) < 2:
        with pytest.raises(NotYet):
            approvals.ask(job, f"run-{number}", OPERATOR)
        number += 1
    with pytest.raises(UmbelError, match="2 requests begin with"):
        approvals.approve(prefix)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"status": "approved"}'])
def test_a_damaged_request_approves_nothing(approvals, job, waiting, text):
    (approvals.folder / f"{waiting}.json").write_text(text)
    with pytest.raises(LedgerError, match="cannot be read as a request"):
        approvals.ask(job, "run", OPERATOR)


def test_an_approval_cannot_be_copied_to_another_run(approvals, job, waiting):
    approvals.approve(waiting)
    with pytest.raises(NotYet):
        approvals.ask(job, "other", OPERATOR)
    other = next(request.id for request in approvals.list() if request.run == "other")
    approved = (approvals.folder / f"{waiting}.json").read_bytes()
    (approvals.folder / f"{other}.json").write_bytes(approved)
    with pytest.raises(LedgerError, match="different request than its name says"):
        approvals.ask(job, "other", OPERATOR)


def test_a_person_answers_from_the_command_line_and_the_answer_is_in_the_audit_log(
    owner, approvals, home, waiting, job
):
    assert waiting[:12] in owner("jobs", home)
    assert json.loads(owner("jobs", home, "--json"))[0]["status"] == "pending"
    assert "Approved run run of job reviews" in owner("approve", waiting[:8], home)
    approvals.ask(job, "run", OPERATOR)
    owner("deny", waiting[:8], home, "--reason", "not now")
    with pytest.raises(PlanRefused, match="not now"):
        approvals.ask(job, "run", OPERATOR)
    approved, denied = AuditLog(home / "audit.jsonl").entries()
    assert (approved.event, denied.event) == ("job approved", "job denied")
    assert approved.job == job.digest()
    assert denied.details["reason"] == "not now"


def test_the_owners_folder_is_the_current_one_by_default(owner, home, monkeypatch):
    monkeypatch.chdir(home)
    assert owner("jobs").startswith("No run was accepted or refused yet.")
    (home / "client.toml").unlink()
    with pytest.raises(UmbelError, match="not a data owner's folder"):
        owner("jobs")


def test_a_hostile_name_does_not_reach_the_terminal(owner, approvals, home, job):
    base = job.model.model_copy(update={"base": "x/\x1b[2Jy"})
    with pytest.raises(NotYet):
        approvals.ask(job.model_copy(update={"model": base}), "\x1b]0;run", OPERATOR)
    for arguments in (("jobs",), ("jobs", "--json")):
        assert "\x1b" not in owner(arguments[0], home, *arguments[1:])


def test_the_commands_start_without_the_heavy_libraries(python):
    script = "import sys, umbel.cli.owner; print({'torch', 'flwr', 'pydantic'} & set(sys.modules))"
    assert python(script).communicate(timeout=600)[0] == "set()\n", sys.executable


def later(monkeypatch, minutes):
    """So many minutes from now are now."""
    moment = datetime.now(UTC) + timedelta(minutes=minutes)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return moment

    monkeypatch.setattr("umbel.client.approvals.datetime", Later)


def test_a_run_that_is_over_does_not_look_as_if_it_still_waited(
    approvals, job, home, owner, waiting, monkeypatch
):
    later(monkeypatch, 20)
    assert "not asked any more" in owner("jobs", home)
    # It asks again: it waits.
    with pytest.raises(NotYet):
        approvals.ask(job, "run", OPERATOR)
    assert "pending" in owner("jobs", home)
    later(monkeypatch, 40)
    assert json.loads(owner("jobs", home, "--json"))[0]["status"] == "not asked any more"
    approvals.approve(waiting)
    assert json.loads(owner("jobs", home, "--json"))[0]["status"] == "approved"


def test_runs_that_are_over_leave_room_for_others(approvals, job, monkeypatch):
    for number in range(MOST_PENDING):
        with pytest.raises(NotYet, match="waits for the owner's approval"):
            approvals.ask(job, f"run-{number}", OPERATOR)
    with pytest.raises(NotYet, match="already"):
        approvals.ask(job, "another", OPERATOR)
    later(monkeypatch, 20)
    with pytest.raises(NotYet, match="waits for the owner's approval"):
        approvals.ask(job, "another", OPERATOR)
    assert len(approvals.list()) == MOST_PENDING
