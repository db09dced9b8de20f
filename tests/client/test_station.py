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
def owner(open_job_of, tmp_path):
    """An owner with data of its own, and a way to send it the operator's requests."""
    stage = set_up(open_job_of(), tmp_path)
    job = stage.job.to_json()

    class Owner:
        def __init__(self):
            self.home = stage.owners[0]
            self.station = Station(self.home, clock=Clock())

        def ask(self, run):
            from flwr.app import Message, RecordDict

            take_server_identity(1)
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

    owner = Owner()
    yield owner
    owner.station.close()


def test_a_run_goes_on_with_data_that_changed_under_the_same_account_and_published_size(owner):
    from pyarrow import parquet

    data = owner.home.data
    first = owner.ask("first")
    parquet.write_table(parquet.read_table(data).slice(1), data)
    for run in ("first", "second"):
        again = owner.ask(run)
        assert not again.has_error(), again.error.reason
        assert again.content["readiness"] == first.content["readiness"]
