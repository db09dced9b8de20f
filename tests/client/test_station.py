"""An owner's station over real data files: what stands between a request and the data."""

import pytest

from umbel.client.station import Station
from umbel.consortium import sign_job
from umbel.flower import stamp, take_server_identity
from umbel.messages import ASSIGNMENT, PREPARE, Assignment
from umbel.simulations.rehearsal import set_up


class Clock:
    """A clock that waiting moves."""

    time = 0.0

    def now(self):
        return self.time

    def wait_until(self, moment):
        self.time = moment


@pytest.fixture
def owner_of(tmp_path):
    """An owner with data of its own, and a way to send it the operator's requests."""
    made = []

    class Owner:
        def __init__(self, job):
            self.stage = set_up(job, tmp_path)
            self.home = self.stage.owners[0]
            self.station = Station(self.home, clock=Clock())
            made.append(self)

        def ask(self, run, job=None):
            from flwr.app import Message, RecordDict

            take_server_identity(1)
            stage = self.stage
            job = (job or stage.job).to_json()
            signature = sign_job(stage.consortium.operator, stage.consortium.card.id, run, job)
            assignment = Assignment(
                version="0.1.0",
                run=run,
                job=job,
                round=0,
                attempt=0,
                participations=stage.job.training.rounds,
                signature=signature,
            )
            content = RecordDict({ASSIGNMENT: assignment.to_record()})
            message = Message(content, dst_node_id=2, message_type=PREPARE)
            stamp(message)
            return self.station.handle(message)

    yield Owner
    for owner in made:
        owner.station.close()


@pytest.fixture
def owner(owner_of, open_job_of):
    return owner_of(open_job_of())


def test_a_job_that_pads_less_than_the_owners_own_probe_demands_is_refused_uncharged(
    owner_of, open_job_of, architectures, tmp_path
):
    """Whatever the operator's probe said: between machines nobody takes another's word for it."""
    folder = tmp_path / "fnet"
    architectures.build("text-classification", "fnet", folder, architectures.word_tokenizer())
    owner = owner_of(open_job_of(str(folder)))
    assert owner.stage.job.model.padding == "longest"
    refused = owner.ask("first")
    assert refused.has_error()
    assert 'model.padding = "max_length"' in refused.error.reason
    assert not owner.home.ledger.exists()
    answered = owner.ask("second", owner.stage.job.padded())
    assert not answered.has_error(), answered.error.reason


def test_a_run_goes_on_with_data_that_changed_under_the_same_account_and_published_size(owner):
    from pyarrow import parquet

    data = owner.home.data
    first = owner.ask("first")
    parquet.write_table(parquet.read_table(data).slice(1), data)
    for run in ("first", "second"):
        again = owner.ask(run)
        assert not again.has_error(), again.error.reason
        assert again.content["readiness"] == first.content["readiness"]
