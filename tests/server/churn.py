"""A federation in this process whose members come and go, and whose coordinator dies."""

import os
from collections import Counter

from flwr.serverapp import Grid

from umbel.client.secure import Membership
from umbel.consortium.authority import Consortium
from umbel.consortium.card import Request, public_pem
from umbel.errors import ProtocolError
from umbel.flower import refuse, stamp
from umbel.planning.limits import secure_limits
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.keys import Identity
from umbel.privacy.secagg.messages import UploadRequest
from umbel.run.events import Round
from umbel.server.conclusion import conclude, signer_of
from umbel.server.orders import begin as begin_run
from umbel.server.renewal import Company
from umbel.server.result import summarise
from umbel.server.rosters import RosterChanged
from umbel.server.rounds import run_rounds
from umbel.server.run import Silent
from umbel.server.signing import sign_order
from umbel.server.split import split
from umbel.simulations import site
from umbel.simulations.federation import federate
from umbel.simulations.grid import InProcessGrid
from umbel.simulations.site import FIRST_NODE, SiteSettings
from umbel.simulations.workers import Inline
from umbel.wire.packing import SECAGG, bytes_of
from umbel.wire.requests import FAILED, PREPARE, TRAIN

RUN = "churned"


class Crash(BaseException):
    """The coordinator is killed here."""


class Net(Grid):
    """The network between: who is away is not reached; who is asked to prepare learns the roster."""

    def __init__(self, inner, members):
        self.inner, self.members = inner, members
        self.away, self.sent, self.lost = set(), [], []

    @property
    def run(self):
        return self.inner.run

    def set_run(self, run):
        self.inner.set_run(run)

    def create_message(self, *arguments, **named):
        return self.inner.create_message(*arguments, **named)

    def get_node_ids(self):
        return [node for node in self.members if node not in self.away]

    def push_messages(self, messages):
        messages = list(messages)
        here = [m for m in messages if self._reaches(m)]
        self.sent += here
        found = dict(zip(map(id, here), self.inner.push_messages(here), strict=True))
        self.lost = [m for m in messages if id(m) not in found]
        return [found.get(id(m)) or stamp(m) for m in messages]

    def pull_messages(self, message_ids):
        for message in self.lost:
            yield stamped(refuse(message, FAILED, "the node is not connected"))
        self.lost = []
        yield from self.inner.pull_messages(message_ids)

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError

    def _reaches(self, message):
        node = message.metadata.dst_node_id
        if node in self.away or node not in self.members:
            return False
        if message.metadata.message_type == PREPARE and SECAGG in message.content:
            try:
                self.members[node].learn(bytes_of(message.content, "roster"))
            except ProtocolError:
                return False
        return True


def stamped(message):
    stamp(message)
    return message


class At(Silent):
    """Does something when a stage begins, each time that it does, or when an event was told."""

    def __init__(self):
        self.actions = {}

    def when(self, moment, action):
        self.actions[moment] = action

    def started(self, what, total):
        self._reached(what)

    def event(self, event):
        if isinstance(event, Round) and event.aggregated:
            self._reached(f"round {event.round} summed")

    def _reached(self, moment):
        action = self.actions.pop(moment, None)
        if action:
            action()


class Federation:
    """A consortium with real keys, rosters and agents, and its coordinator, in this process."""

    def __init__(self, job, folder, monkeypatch, begin, apart=False):
        self.virtual = federate(job)
        self.job = self.virtual.job
        self.folder = folder
        self.consortium = Consortium.create(
            folder / "hospitals", "127.0.0.1", 9443, secure_limits(job.encryption)
        )
        self.names = [share.name for share in self.virtual.shares]
        monkeypatch.setattr(site, "membership", lambda owners, name: self.membership(name))
        (folder / "key").write_bytes(self.consortium.card.consortium_key_bytes)
        self.requests = {name: self._request(name) for name in self.names}
        for name in self.names[:begin]:
            self.admit(name)
        self.workers = Inline(
            SiteSettings(self.virtual, folder / "ledgers", folder / "owners", False)
        )
        members = {self.node(name): self.membership(name) for name in self.names}
        self.net = Net(InProcessGrid(self.workers, len(self.names)), members)
        self.at = At()
        self.keys = split(self.consortium, folder / "keys") if apart else self.consortium
        order = sign_order(self.keys, self.job)
        self.run_folder = begin_run(self.consortium, order, wait=0.0, name=RUN)

    def _request(self, name):
        from cryptography.hazmat.primitives.asymmetric import ec

        identity = Identity(os.urandom(64))
        path = self.membership(name).identity
        path.parent.mkdir(parents=True, mode=0o700)
        path.write_bytes(identity.to_secret_bytes())
        node = public_pem(ec.generate_private_key(ec.SECP384R1()).public_key())
        return Request.make(self.consortium.card, name, identity, node)

    def membership(self, name):
        own = self.folder / "owners" / name
        return Membership(
            name, own / "identity", self.folder / "key", own / "roster", own / "journals"
        )

    def node(self, name):
        return FIRST_NODE + self.names.index(name)

    def admit(self, name):
        self.consortium.admit(self.requests[name])

    def remove(self, name):
        self.consortium.remove(name)

    def away(self, *names):
        self.net.away = {self.node(name) for name in names}

    def taken_up(self):
        """The run as it stands, with who takes part."""
        shape, initial = self.workers.call("model")
        nodes = {member.name: self.node(member.name) for member in self.consortium.members()}
        company = Company.gather(
            self.run_folder,
            self.consortium,
            shape,
            self.net,
            nodes,
            lambda: False,
            lambda *_: None,
            {},
        )
        return company, company.take_up(self.net, initial)

    def coordinate(self):
        """What a coordinator does, until the run is over or this one is killed or the roster is another."""
        company, run = self.taken_up()
        run.patience, run.listener = 0.0, self.at
        counts = run_rounds(run)
        self.workers.call("export", run.arrays, self.run_folder.path / "adapter")
        identity = self.run_folder.read_json("run.json")
        result = summarise(run, counts, {}, identity, company.statement())
        conclude(self.run_folder, result, *signer_of(self.consortium, self.run_folder))
        return result

    def lead(self):
        """As the supervisor: whatever ends a coordinator, the next one goes on."""
        while True:
            try:
                return self.coordinate()
            except (Crash, RosterChanged):
                pass

    def events(self, kind):
        return [event for event in self.run_folder.read_events() if event["event"] == kind]

    def clients(self):
        """Who is in the sum of each round that is in the model."""
        return {e["round"]: set(e["clients"]) for e in self.events("round") if e["aggregated"]}

    def charged(self):
        """How often each round was charged, by owner; every ledger is whole and within the promise."""
        found = {}
        for path in sorted((self.folder / "ledgers").glob("*.sqlite")):
            with Ledger(path) as ledger:
                ledger.verify()
                mine = ledger.entries_of(self.run_folder.read_json("run.json")["id"])
                found[path.stem] = Counter(entry.what for entry in mine if not entry.is_test)
        return found

    def rosters_asked(self):
        """By round, under which rosters owners were asked to mask an update."""
        found = {}
        for message in self.net.sent:
            if message.metadata.message_type == TRAIN:
                request = UploadRequest.from_bytes(bytes_of(message.content, "request"))
                round_ = message.content["assignment"]["round"]
                found.setdefault(round_, []).append(request.manifest.slot.roster)
        return found
