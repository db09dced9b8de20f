"""An owner's ledger of privacy: what each of its accounts has spent, over all jobs and servers.

Before an agent touches data it reserves the noisy steps here. What an account has spent is the
composition of all its rows (``accountant.epsilon``), so a job cannot be cut into cheap pieces. How
the rows are kept, and a change to them noticed, is the affair of ``ledger_file``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...errors import BudgetExceeded, LedgerError
from ..accounting.accountant import MechanismEvent, epsilon
from .chain import DISJOINT, GENESIS, TAKES_OVER, Entry
from .ledger_file import LedgerFile
from .schema import ROW

__all__ = ["Entry", "Ledger"]


class Ledger(LedgerFile):
    """Record of every reserved mechanism event, in a file whose guarantees are this one's too.

    Guarantees: when ``reserve`` has returned, its row is on disk, whatever happens to the process
    or the machine afterwards (given a disk that honours fsync). Processes that hold the same file
    open take turns, so none can spend what another has just spent.

    Time decides nothing: what is spent is the composition of all rows, whenever they were written.
    """

    def reserve(
        self,
        dataset: str,
        event: MechanismEvent,
        *,
        job: str,
        key: str,
        delta: float,
        limit: float,
        replay: bool = False,
    ) -> float:
        """Charge `event` to the account and return its epsilon afterwards, at `delta`.

        dataset: the account's name, under the word that earlier ledgers have for it. key: names the
        request (run, round, attempt).

        Raises ``BudgetExceeded``, and charges nothing, if the composition of all events of the
        account with this one would pass `limit`. With ``replay=False`` a key that was seen before
        is charged again: what ran before a crash counts as spent. With ``replay=True`` the same key
        with the same event and job is charged once. That is right only for reproducible runs,
        where noise and samples are a function of the key, so that a repetition releases the
        same value; the first reservation must have said ``replay=True`` as well. The same key with
        another event or job raises ``LedgerError``: one noise would hide two values.
        """
        with self._turn():
            self._check()
            if replay and self._is_replayed(dataset, event, job, key):
                return epsilon(self._totals(dataset), delta)
            after = self._affordable(dataset, [event], delta, limit)
            entry = Entry(
                number=0,
                dataset=dataset,
                event=replace(
                    event,
                    noise_multiplier=float(event.noise_multiplier),
                    sampling_rate=float(event.sampling_rate),
                    steps=int(event.steps),
                ),
                job=job,
                key=key,
                delta=float(delta),
                limit=float(limit),
                replay=bool(replay),
                recorded=self._now(),
                hash="",
            )
            self._append(entry)
        self._witness_rows()
        return after

    def note(self, account: str, what: str, of: str = "") -> None:
        """Record what an owner declares of an account: a row that charges nothing.

        ``TAKES_OVER`` adds to the account all that `of`, another account or data set, has spent or
        taken over; nothing is ever given back.
        """
        if "/" in of:
            raise ValueError(f"not the name of an account: {of!r}")
        with self._turn():
            self._check()
            note = Entry(0, account, MechanismEvent(0.0, 0.0, 0), "", f"{what}/{of}/0", 0.0, 0.0,
                         False, self._now(), "")  # fmt: skip
            self._append(note)
        self._witness_rows()

    def strangers(self, account: str) -> set[str]:
        """Accounts and data sets that have spent, and that `account` has neither taken over nor been
        declared disjoint from: a new name must not begin with nothing spent by itself.
        """
        with self._view():
            rows = self._connection.execute(f"SELECT {ROW}, hash FROM entries WHERE steps = 0")
            notes = [Entry.of(row[:-1], row[-1]) for row in rows]
            spent = self._connection.execute("SELECT DISTINCT dataset FROM entries WHERE steps > 0")
            named = {name for (name,) in spent}
        links = [(e.dataset, e.what) for e in notes if e.run in (TAKES_OVER, DISJOINT)]
        return named - _closure(account, links)

    def has(self, head: str) -> bool:
        """Whether the ledger once ended with this hash."""
        with self._view():
            found = self._connection.execute("SELECT 1 FROM entries WHERE hash = ?", (head,))
            return head == GENESIS or found.fetchone() is not None

    def ensure_affordable(
        self, dataset: str, *events: MechanismEvent, delta: float, limit: float
    ) -> float:
        """Epsilon that the account would have after `events`; nothing is written.

        Raises ``BudgetExceeded`` if that passes `limit`. For a whole job before its first round.
        """
        with self._view():
            return self._affordable(dataset, events, delta, limit)

    def spent(self, dataset: str, delta: float) -> float:
        """Epsilon at `delta` of everything that was ever reserved for the account."""
        with self._view():
            return epsilon(self._totals(dataset), delta)

    def events(self, dataset: str) -> list[MechanismEvent]:
        """Every event reserved for the account, or for what it took over, oldest first."""
        entries = self.entries()
        names = inherited(entries, dataset)
        return [e.event for e in entries if e.dataset in names and e.event.steps]

    def _is_replayed(self, dataset: str, event: MechanismEvent, job: str, key: str) -> bool:
        found = self._connection.execute(
            f"SELECT {ROW}, hash FROM entries WHERE replay = 1 AND key = ? AND dataset = ? LIMIT 1",
            (key, dataset),
        ).fetchone()
        if found is None:
            return False
        entry = Entry.of(found[:-1], found[-1])
        if (entry.event, entry.job) != (event, job):
            raise LedgerError(
                f"Request {key} was reserved for account {_short(dataset)} before, as "
                f"{_described(entry.event)} of job {entry.job}, and now as "
                f"{_described(event)} of job {job}. A reproducible run cannot use one key "
                "for two values: give the run another name."
            )
        return True

    def _totals(self, dataset: str) -> list[MechanismEvent]:
        """The account's events and those of all that it took over, of one mechanism added up."""
        notes = self._connection.execute(
            f"SELECT {ROW}, hash FROM entries WHERE key LIKE ?", (f"{TAKES_OVER}/%",)
        )
        names = inherited([Entry.of(row[:-1], row[-1]) for row in notes], dataset)
        found = self._connection.execute(
            "SELECT noise_multiplier, sampling_rate, sum(steps), kind FROM entries "
            f"WHERE dataset IN ({', '.join('?' * len(names))}) "
            "GROUP BY kind, noise_multiplier, sampling_rate",
            sorted(names),
        )
        return [MechanismEvent(*row) for row in found]

    def _affordable(
        self, dataset: str, asked: Sequence[MechanismEvent], delta: float, limit: float
    ) -> float:
        events = self._totals(dataset)
        after = epsilon([*events, *asked], delta)
        # Written so that a limit or an epsilon that is not a number refuses.
        if not after <= limit:
            before = epsilon(events, delta)
            raise BudgetExceeded(
                f"This account has spent epsilon {before:.4g} of its limit "
                f"{limit:g} at delta {delta:g} ({max(0.0, limit - before):.4g} left), and this "
                f"request ({' and '.join(map(_described, asked))}) would make it {after:.4g}. Ask "
                "for fewer rounds or more noise (a smaller privacy.epsilon), or ask the owner to "
                "raise the limit."
            )
        return after


def inherited(entries: Iterable[Entry], account: str) -> set[str]:
    """The account, and whatever it took over, and whatever that did."""
    return _closure(account, [(e.dataset, e.what) for e in entries if e.taken_over is not None])


def _closure(account: str, links: Sequence[tuple[str, str]]) -> set[str]:
    """The account, and whatever links lead to from it."""
    names = {account}
    while more := {of for by, of in links if by in names and of not in names}:
        names |= more
    return names


def _short(dataset: str) -> str:
    return dataset[:12]


def _described(event: MechanismEvent) -> str:
    steps = "1 step" if event.steps == 1 else f"{event.steps} steps"
    if event.kind == "pure":
        return f"{steps} of epsilon {1 / event.noise_multiplier:g}"
    if event.kind == "concentrated":
        return f"{steps} of concentrated noise {event.noise_multiplier:g}"
    return f"{steps} at noise {event.noise_multiplier:g} and rate {event.sampling_rate:g}"
