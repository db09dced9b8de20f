"""What only an owner does to its account: have a size drawn again, begin another one, take a folder over.

Each act is a row of the ledger, so that who reads it later sees what was declared, and when.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ..errors import ConsortiumError, DataError
from ..learning.split import row_marks
from ..privacy.ledger.chain import DISJOINT, MOVED, TAKES_OVER
from ..privacy.ledger.ledger import Ledger
from ..privacy.noise.sizes import Sizes
from ..storage.files import write_durably
from .account import AccountFile
from .budget import Budget
from .echo import missing
from .home import Home
from .policy import Policy
from .propose import Proposal, propose
from .settings import settings_text


def publish_size(home: Home) -> Sizes:
    """Draw and charge new sizes of the data, which hold from now on.

    Raises ``BudgetExceeded``, and publishes nothing, where the policy's limit leaves no room.
    """
    account, source = home.account, home.source
    account.check_place(home.ledger)
    account.check_ledger(home.ledger, home.seen_head)
    budget = Budget(home.name, home.ledger, account.name, Policy.read(home.policy), False)
    return account.publish(source.counts(source.corpus()), budget)


def new_account(home: Home) -> str:
    """Begin an account with nothing spent, for data that share no record with any before; its name.

    Raises ``DataError`` if hashes show records that another account has had. What is found there
    later is left out of the new account, record by record.
    """
    old, source = home.account, home.source
    old.check_place(home.ledger)
    corpus = source.corpus(of_all_accounts=True)
    known = home.marks.foreign(row_marks(corpus, home.split_secret), "")
    if known.any():
        raise DataError(
            f"{int(known.sum()):,} of {len(corpus):,} records of {home.data} were in an earlier "
            "account of this owner, so the data are not disjoint. What they spent stays: remove "
            "these records from the file, or keep the present account."
        )
    name = old.fresh_name()
    with Ledger(home.ledger) as ledger:
        ledger.note(name, DISJOINT, old.name)
    old.begin(name)
    old.settle(home.ledger)
    return name


def moved(home: Home) -> None:
    """Take this copy of the folder for the only one that goes on; its ledger must verify.

    Whatever stands in the ledger and was not declared disjoint is the account's from now on. Rows that
    the server has heard of and this ledger lacks (``echo``) are given up; the ledger says so.
    """
    name = home.account.name
    with Ledger(home.ledger) as ledger:
        ledger.verify()
        for stranger in sorted(ledger.strangers(name)):
            ledger.note(name, TAKES_OVER, stranger)
        ledger.note(name, MOVED, missing(home.behind))
    home.behind.unlink(missing_ok=True)
    if home.seen_head is not None:
        home.seen_head.unlink(missing_ok=True)
    home.account.settle(home.ledger)


def proposed_upgrade(folder: Path, **given: Any) -> tuple[str, Proposal, dict[str, Any]]:
    """Name, declaration and [server] of a folder whose client.toml declares nothing yet.

    Raises ``ConsortiumError`` for one that lacks nothing: what somebody wrote into it would be lost.
    """
    file = folder / "client.toml"
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
        data = dict(values["data"])
        name, path = str(values["name"]), str(data.pop("path"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConsortiumError(f"{file} cannot be upgraded: {error!r}") from None
    home = Home(folder)
    if "text_column" in data and home.split_key.exists() and home.account.path.exists():
        raise ConsortiumError(
            f"{file} already declares its data. Edit that file; nothing was changed."
        )
    test = data.pop("test_path", None)
    data |= {key: value for key, value in given.items() if value not in (None, [])}

    def from_here(text: str) -> Path:
        return (folder / Path(text).expanduser()).resolve()

    proposal = propose(from_here(path), from_here(test) if test else None, **data)
    return name, proposal, dict(values.get("server", {}))


def upgrade(folder: Path, name: str, proposal: Proposal, server: dict[str, Any]) -> None:
    """Write what an earlier version's folder lacks; its account inherits all that was ever spent.

    An earlier ledger knows data sets by their content. Which of them are versions of one another
    nobody can tell, so the account takes all of them over, and nothing is refilled. Every step may be
    repeated after a crash.
    """
    import os

    import tomli_w

    from .home import SECRET_BYTES

    home = Home(folder)
    if not home.split_key.exists():
        write_durably(home.split_key, os.urandom(SECRET_BYTES), secret=True)
    account = AccountFile(home.account.path)
    if not account.path.exists():
        fresh = account.fresh_name()
        if Ledger.begun(home.ledger):
            with Ledger(home.ledger) as ledger:
                for old in sorted({e.dataset for e in ledger.entries() if e.dataset}):
                    ledger.note(fresh, TAKES_OVER, old)
        account.begin(fresh)
    text = settings_text(name, proposal.declared)
    if server:
        text = text[: text.index("[server]")] + tomli_w.dumps({"server": server})
    before = home.settings_file.with_name("client.toml.before")
    if not before.exists():
        write_durably(before, home.settings_file.read_bytes())
    write_durably(home.settings_file, text.encode())
