"""What owners masked, read from their journals while a deployment runs."""

import contextlib
import logging
import threading
from collections import defaultdict

_JOURNALS = logging.getLogger("umbel.privacy.secagg.journal")


class Uploads:
    """Watches journals while they live: which masked vector each slot of each owner was sent."""

    def __init__(self, homes):
        self.seen = defaultdict(set)
        self._homes = list(homes)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self):
        self._stop.set()
        self._thread.join()
        _JOURNALS.removeFilter(self._others)

    def _others(self, record):
        return threading.current_thread() is not self._thread

    @property
    def twice(self):
        """Slots for which an owner has masked two vectors: their difference would be readable."""
        return {slot: len(found) for slot, found in self.seen.items() if len(found) > 1}

    def _watch(self):
        from umbel.errors import UmbelError
        from umbel.privacy.secagg.journal import Journal

        # A journal that is read while it is written looks damaged; it is read again.
        _JOURNALS.addFilter(self._others)
        while not self._stop.wait(0.1):
            for home in self._homes:
                for folder in home.journals.glob("*"):
                    with contextlib.suppress(UmbelError, OSError):
                        state = Journal(folder, "any")._load().state
                        if state.vector:
                            key = (home.name, folder.name, state.number)
                            self.seen[key].add(state.vector)
