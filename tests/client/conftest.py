"""What tests of the agent share: an owner that is asked, and a child that works on records."""

import dataclasses
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from umbel.client.home import Home
from umbel.consortium.authority import Consortium
from umbel.privacy.secagg.roster import Limits

from .examined import ROWS, moved, written


@pytest.fixture(scope="session")
def sound():
    """A bench whose child lives. Starting one takes seconds; it can change owner and job at any time."""
    from umbel.client.child import Bench

    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture(scope="session")
def data_of():
    """The data of the first of the job's virtual owners, and its account."""

    from umbel.simulations.federation import federate

    def build(job):
        federation = federate(job)
        share = federation.shares[0]
        return federation.data(share), federation.account(share)

    return build


@pytest.fixture
def owner(open_job_of, learner_of, data_of, tmp_path):
    """An agent of a job's learner and data, and a way to ask it."""
    from umbel.client.agent import Agent
    from umbel.client.policy import Policy
    from umbel.client.work import WorkHere, Workplace
    from umbel.flower import stamp, take_server_identity
    from umbel.learning.tasks import task_for
    from umbel.planning.schedule import most_tests
    from umbel.privacy.ledger.chain import SIZE_RUN
    from umbel.privacy.ledger.ledger import Ledger
    from umbel.wire.arrays import to_array_record
    from umbel.wire.requests import ASSIGNMENT, PREPARE, Assignment

    class Owner:
        def __init__(self, job, **options):
            self.job, self.learner = job, learner_of(job)
            self.data, self.account = data_of(job)
            self.ledger = tmp_path / "ledger.sqlite"
            workplace = Workplace(self.learner, task_for(job, 2))
            options = {"policy": Policy.simulated(job), **options}
            work = WorkHere("mary", workplace, self.data)
            self.agent = Agent("mary", work, self.account, self.ledger, **options)

        def ask(self, kind, round_=1, attempt=0, arrays=None, config=None, records=None, **changes):
            from flwr.app import ConfigRecord, Message, RecordDict

            take_server_identity(1)
            assignment = Assignment(
                version="0.1.0",
                run="run",
                job=self.job.to_json(),
                round=round_,
                attempt=attempt,
                participations=self.job.training.rounds,
                tests=most_tests(self.job),
            )
            assignment = dataclasses.replace(assignment, **changes)
            content = RecordDict({ASSIGNMENT: assignment.to_record()})
            if kind != PREPARE:
                content["arrays"] = to_array_record(arrays or self.learner.initial)
            if config:
                content["config"] = ConfigRecord(config)
            for key, record in (records or {}).items():
                content[key] = (
                    ConfigRecord(record) if isinstance(record, dict) and key != "beside" else record
                )
            message = Message(content, dst_node_id=2, message_type=kind)
            stamp(message)
            return self.agent.handle(message)

        def entries(self):
            """The rows of runs."""
            with Ledger(self.ledger) as ledger:
                return [row for row in ledger.entries() if row.run != SIZE_RUN]

    return Owner


@pytest.fixture
def job(open_job_of):
    """A private head on features, whose updates arrive in the clear."""
    return open_job_of()


@pytest.fixture
def plain(open_job_of):
    """The same without privacy."""
    return open_job_of(privacy={"unit": "none"})


@pytest.fixture
def consortium(tmp_path):
    return Consortium.create(tmp_path / "operator" / "hospitals", "localhost", 9443, Limits())


@pytest.fixture
def data(tmp_path):
    return written(tmp_path / "notes.csv", ROWS)


@pytest.fixture
def home(consortium, data, tmp_path):
    card = consortium.path / "consortium.json"
    columns = {"text_column": "note", "label_column": "class"}
    made = Home.create(tmp_path / "st-mary", card, data, **columns)
    # Nothing listens where most tests look: a refusal is the quickest answer.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # held, so that nobody else comes to listen there
        yield moved(made, f"localhost:{nobody.getsockname()[1]}")


@pytest.fixture
def serve():
    """A real server on loopback, over TLS unless it has no certificate; its port."""
    running = []

    def start(consortium=None, fleet=405, control=404, ahead=timedelta(), host="127.0.0.1"):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(fleet if self.path.startswith("/v1/fleet/") else control)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def date_time_string(self, timestamp=None):
                return format_datetime(datetime.now(UTC) + ahead, usegmt=True)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer((host, 0), Handler)
        if consortium is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(consortium.server_certificate, consortium.server_key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return server.server_address[1]

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()
