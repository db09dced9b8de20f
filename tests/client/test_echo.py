"""What the server last heard of a ledger comes back: an older copy of the folder spends nothing more."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umbel.certificate.seal import seal_head
from umbel.client.echo import Echo
from umbel.client.home import Home
from umbel.client.owning import moved
from umbel.consortium.authority import Consortium
from umbel.errors import LedgerError, MessageError
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.secagg.roster import Limits

EVENT = MechanismEvent(100.0, 0.01, 1)


@pytest.fixture
def home(tmp_path):
    made = Consortium.create(tmp_path / "operator", "localhost", 9443, Limits())
    data = tmp_path / "notes.csv"
    data.write_text("text,label\n" + "".join(f"note {n},{'ab'[n % 2]}\n" for n in range(9)))
    home = Home.create(tmp_path / "st-mary", made.path / "consortium.json", data)
    spend(home.ledger, home.account.name, 1)
    return home


def spend(path, account, rows, run="run"):
    """So many rows more; what the server hears after each of them."""
    heard = []
    with Ledger(path) as ledger:
        for _ in range(rows):
            key = f"{run}/{ledger.verify()}/0"
            ledger.reserve(account, EVENT, job="j", key=key, delta=1e-5, limit=100.0)
            heard.append(seal_head(ledger.identity, ledger.head()))
    return heard


def copied(home, folder):
    """Ledger and witness as they are now; a function that puts them back, as the same files."""
    files = [home.ledger, home.ledger.with_suffix(".witness")]
    copies = [Path(shutil.copy(file, folder)) for file in files]

    def back():
        for file, copy in zip(files, copies, strict=True):
            file.write_bytes(copy.read_bytes())

    return back


@given(
    rows=st.integers(1, 6),
    more=st.integers(0, 6),
    told=st.integers(0, 11),
    running=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_a_ledger_is_behind_what_it_lacks_and_nothing_else(
    rows, more, told, running, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("ledger")
    path = folder / "ledger.sqlite"
    heard = spend(path, "account", rows)
    copies = [shutil.copytree(folder, folder / "copy")]
    heard += spend(path, "account", more)
    seal = heard[min(told, len(heard) - 1)]
    echo = Echo(path, folder / "behind")
    echo.check(seal)  # nothing was put back yet
    for file in copies[0].iterdir():
        shutil.copy(file, folder)
    if not running:
        echo = Echo(path, folder / "behind")
    if seal in heard[:rows]:
        echo.check(seal)
        assert not (folder / "behind").exists()
    else:
        with pytest.raises(
            LedgerError, match="older than what this owner has reported to the server"
        ):
            echo.check(seal)
        assert (folder / "behind").read_text() == seal


def test_what_its_owner_has_given_up_is_not_asked_for_again_but_all_else_is(home, tmp_path):
    back = copied(home, tmp_path)
    second, third = spend(home.ledger, home.account.name, 2)
    back()
    echo = Echo(home.ledger, home.behind)
    with pytest.raises(LedgerError, match="umbel client moved"):
        echo.check(third)
    moved(home)
    assert not home.behind.exists()
    echo.check(third)
    with pytest.raises(LedgerError):
        echo.check(second)
    # The ledger says what was given up, and goes on from there.
    with Ledger(home.ledger) as ledger:
        assert [entry.what for entry in ledger.entries() if entry.run == "moved"] == [third]
    [fourth] = spend(home.ledger, home.account.name, 1)
    echo.check(fourth)


def test_a_ledger_that_was_begun_anew_is_behind(home):
    [heard] = spend(home.ledger, home.account.name, 1)
    for file in (home.ledger, home.ledger.with_suffix(".witness")):
        file.unlink()
    with pytest.raises(LedgerError):
        Echo(home.ledger, home.behind).check(heard)
    spend(home.ledger, home.account.name, 3)
    with pytest.raises(LedgerError):
        Echo(home.ledger, home.behind).check(heard)


@pytest.mark.parametrize("seal", ["", "ab", "g" * 64, "A" * 64, b"a" * 64, 7, None, ["a" * 64]])
def test_what_is_no_seal_is_the_servers_fault_and_leaves_nothing(home, seal):
    with pytest.raises(MessageError):
        Echo(home.ledger, home.behind).check(seal)
    assert not home.behind.exists()
