"""How a simulation ended, and ways to end it: what tests of simulations share."""

import json
import os
import signal

from umbel.privacy.ledger.ledger import Ledger
from umbel.server.run import Silent

SITES = ["film", "press", "shop", "social"]


def result(folder):
    return json.loads((folder.path / "result.json").read_text())


def sha(folder):
    return result(folder)["adapter_sha256"]


def spent(folder, delta=1e-3):
    found = {}
    for path in sorted((folder.path / "ledgers").glob("*.sqlite")):
        with Ledger(path) as ledger:
            [dataset] = {entry.dataset for entry in ledger.entries()}
            found[path.stem] = ledger.spent(dataset, delta)
    return found


class At(Silent):
    """Does something the first time that a stage begins, or that an event was written."""

    def __init__(self, moment, action):
        self.moment, self.action = moment, action

    def started(self, what, total):
        self._reached(what)

    def event(self, event):
        self._reached(f"{event.kind} {getattr(event, 'round', '')} written".replace("  ", " "))

    def _reached(self, moment):
        if moment == self.moment:
            self.moment = None
            self.action()


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)
