"""A whole federation in this process, and a network between that a test can disturb."""

from collections import Counter

import pytest

from .machines import on_machines


@pytest.fixture(scope="session")
def faulty_grid():
    """A grid around another; `fault(request, reply, attempt)` says what arrives instead of a reply.

    It returns replies, or an exception to raise. `requests` holds all that was sent. `late` replies
    arrive when the next requests have been sent.
    """
    from flwr.serverapp import Grid

    from umbel.wire.requests import ASSIGNMENT, Assignment

    class FaultyGrid(Grid):
        def __init__(self, inner, fault=lambda request, reply, asked: [reply]):
            self.inner, self.fault = inner, fault
            self.requests, self.late, self.ready = [], [], []
            self._by_id = {}

        @property
        def run(self):
            return self.inner.run

        def set_run(self, run):
            self.inner.set_run(run)

        def create_message(self, *arguments, **named):
            return self.inner.create_message(*arguments, **named)

        def get_node_ids(self):
            return self.inner.get_node_ids()

        def push_messages(self, messages):
            messages = list(messages)
            ids = list(self.inner.push_messages(messages))
            self.ready += self.late
            self.late = []
            for message_id, message in zip(ids, messages, strict=True):
                record = message.content.config_records[ASSIGNMENT]
                self.requests.append((message, Assignment.from_record(record)))
                self._by_id[message_id] = self.requests[-1]
            return ids

        def pull_messages(self, message_ids):
            replies, self.ready = self.ready, []
            for reply in self.inner.pull_messages(list(self._by_id)):
                message, assignment = self._by_id[reply.metadata.reply_to_message_id]
                replies += self.fault(message, reply, assignment)
            return replies

        def send_and_receive(self, messages, *, timeout=None):
            raise NotImplementedError

        def asked(self, kind):
            """How often each node was asked."""
            return Counter(
                message.metadata.dst_node_id
                for message, _ in self.requests
                if message.metadata.message_type == kind
            )

    return FaultyGrid


@pytest.fixture(scope="session")
def federation_of():
    from functools import lru_cache

    from umbel.job import Job
    from umbel.simulations.federation import federate

    @lru_cache
    def build(canonical):
        import json

        return federate(Job.build(json.loads(canonical)))

    return lambda job: build(job.to_json())


@pytest.fixture
def start_run(federation_of, faulty_grid, moved_clock, tmp_path):
    """A run of a job over real agents in this process; the same folder goes on with the old one."""
    from umbel.planning.plan import Plan, strategy_of
    from umbel.run.run_folder import RunFolder
    from umbel.server.run import Run
    from umbel.server.sums import SecureSums
    from umbel.simulations.grid import InProcessGrid
    from umbel.simulations.membership import found
    from umbel.simulations.site import SiteSettings
    from umbel.simulations.workers import Inline

    def start(job, fault=None, *, name="run", identity="r", reproducible=True, federation=None):
        federation = federation or federation_of(job)
        owners = tmp_path / name / "owners"
        ledgers = tmp_path / name / "ledgers"
        workers = Inline(SiteSettings(federation, ledgers, owners, reproducible))
        shape, initial = workers.call("model")
        plan = Plan.compile(federation.job, federation.facts, shape)
        strategy = strategy_of(plan)
        grid = InProcessGrid(workers, len(federation.shares))
        grid = faulty_grid(grid, fault) if fault else faulty_grid(grid)
        path = tmp_path / name
        if (path / "job.toml").exists():
            folder = RunFolder.open(path)
        else:
            folder = RunFolder.create(path, federation.job)
        run = Run(identity, plan, grid, strategy, folder, initial, clock=type(moved_clock)())
        if job.encrypted:
            names = [share.name for share in federation.shares]
            run.sums = SecureSums(found(owners, names, job.encryption))
        return run

    return start


@pytest.fixture
def store(consortium):
    """Of the runs that a server knows."""
    from umbel.run.store import Store

    return Store(consortium.database)


@pytest.fixture
def quick(open_job_of):
    """Four natural clients that train a head on features, without privacy but as if with it."""

    def build(**sections):
        plain = {"privacy": {"unit": "none"}, "strategy": {"weighting": "equal"}}
        for name, section in plain.items():
            sections[name] = {**section, **sections.get(name, {})}
        return open_job_of("bert", **sections)

    return build


@pytest.fixture
def encrypted(job_of):
    """Four natural clients that train a head; one may drop out of a sum."""

    def build(**sections):
        plain = {"privacy": {"unit": "none"}, "strategy": {"weighting": "equal"}}
        for name, section in plain.items():
            sections[name] = {**section, **sections.get(name, {})}
        sections["cohort"] = {"minimum": 3, **sections.get("cohort", {})}
        return job_of("bert", **sections)

    return build


@pytest.fixture
def private(open_job_of):
    """The same under example-level privacy; every step sees all records, so noise is found fast."""

    def build(**sections):
        training = {"batch_size": 64, **sections.pop("training", {})}
        return open_job_of("bert", training=training, **sections)

    return build


@pytest.fixture
def undisturbed(start_run, quick):
    """Arrays that the quick job ends with when nothing goes wrong."""
    from umbel.learning.model import arrays_digest
    from umbel.server.rounds import run_rounds

    def digest(**sections):
        run = start_run(quick(**sections), name="undisturbed")
        run_rounds(run)
        return arrays_digest(run.arrays)

    return digest


@pytest.fixture
def seven_owners(job_of):
    """An asynchronous job with sums of three of seven owners: two can be in progress at once."""

    def build(rounds):
        return job_of(
            strategy={"name": "fedbuff", "options": {"buffer": 3, "max_staleness": 3}},
            training={"batch_size": 64, "rounds": rounds},
            evaluation={"counts": "off"},
            simulation={"partition": "iid", "clients": 7},
        )

    return build


@pytest.fixture
def start(start_run):
    """A run whose owners draw their noise from the system, and the machines between."""

    def build(job):
        run = start_run(job, reproducible=False)
        return run, on_machines(run)

    return build
