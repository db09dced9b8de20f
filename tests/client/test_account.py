"""An owner's account: one size, charged before it is drawn; one budget, whatever files become."""

import csv
import json
import os
import shutil
import signal
import stat
from pathlib import Path

import numpy as np
import pytest

from umbel.client.account import Account, AccountFile, KeptSize
from umbel.client.budget import Budget
from umbel.client.home import Home
from umbel.client.marks import Marks
from umbel.client.owning import moved, new_account, publish_size
from umbel.client.policy import Policy
from umbel.client.propose import propose
from umbel.client.spending import spending
from umbel.consortium.authority import Consortium
from umbel.errors import BudgetExceeded, ConsortiumError, DataError, LedgerError, PlanRefused
from umbel.learning.split import row_marks
from umbel.privacy.accounting.accountant import MechanismEvent, epsilon
from umbel.privacy.ledger.ledger import Ledger
from umbel.privacy.noise.sizes import SIZE_EVENT, SMALLEST_SIZE, Sizes
from umbel.privacy.secagg.roster import Limits

ROWS = [(f"note {number}", ("fine", "ill")[number % 2]) for number in range(300)]


def written(path, rows, header=("text", "label")):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def card(tmp_path):
    made = Consortium.create(tmp_path / "operator", "localhost", 9443, Limits())
    return made.path / "consortium.json"


@pytest.fixture
def home(card, tmp_path):
    data = written(tmp_path / "notes.csv", ROWS)
    return Home.create(tmp_path / "st-mary", card, data)


def budget(home, **rules):
    policy = Policy.model_validate({"privacy": rules})
    return Budget(home.name, home.ledger, home.account.name, policy, False)


def charged(home):
    with Ledger(home.ledger) as ledger:
        return ledger.events(home.account.name)


def kept(home, count=300, held_out=None):
    counts = Sizes(count, held_out)
    return KeptSize(home.account, lambda: counts, apart=held_out is not None)


@pytest.mark.parametrize(
    ("count", "smallest", "takes_part"),
    [
        (0, 1, True),
        (0, 99, True),
        (0, 100, False),
        (0, 101, False),
        (500, 100, True),
        (500, 999, False),
    ],
)
def test_an_owner_with_too_few_records_takes_part_in_nothing_if_it_says_so(
    home, open_job_of, count, smallest, takes_part
):
    account = Account("a", 0.8, True, kept(home, count), smallest)
    if takes_part:
        assert account.published(open_job_of(), budget(home)) >= SMALLEST_SIZE
    else:
        with pytest.raises(PlanRefused, match="smallest_size"):
            account.published(open_job_of(), budget(home))


def test_a_size_is_drawn_once_and_told_ever_after(home):
    told = {kept(home, count).published(budget(home)) for count in (300, 301, 99, 100_000)}
    assert len(told) == 1
    assert abs(told.pop().data - 300) < 300
    assert charged(home) == [SIZE_EVENT]
    assert stat.S_IMODE(home.account.path.stat().st_mode) == 0o600


def test_a_held_out_file_has_a_size_of_its_own_for_the_same_charge(home):
    told = kept(home, 300, 5000).published(budget(home))
    assert abs(told.data - 300) < 300
    assert abs(told.held_out - 5000) < 300
    assert kept(home, 1, 1).published(budget(home)) == told
    assert charged(home) == [SIZE_EVENT]


def test_a_held_out_file_that_is_declared_later_has_both_sizes_drawn_anew_and_charged(home):
    before = kept(home).published(budget(home))
    assert before.held_out is None
    assert not kept(home, 300, 50).known
    after = kept(home, 300, 50).published(budget(home))
    assert after.held_out is not None
    assert charged(home) == [SIZE_EVENT] * 2
    assert kept(home).published(budget(home)) == Sizes(after.data)


def test_a_record_is_counted_in_one_file_only_and_a_group_too(home, card, tmp_path):
    rows = [(f"note {n}", "fine", "ill"[n % 3]) for n in range(30)]
    held = [(f"other {n}", "ill", "ilxy"[n % 4]) for n in range(40)]
    header = ("text", "label", "patient")
    data, test = (
        written(tmp_path / "a.csv", rows, header),
        written(tmp_path / "b.csv", held, header),
    )
    for unit, sizes in (("record", Sizes(30, 40)), ("group", Sizes(2, 2))):
        given = {"group_column": "patient", "unit": unit, "labels": ["fine", "ill"]}
        declared = propose(data, test, **given).declared
        source = Home.create(tmp_path / unit, card, data, declared=declared).source
        assert source.counts(source.corpus()) == sizes


@pytest.mark.parametrize("count", [0, 1, 60])
def test_no_size_below_the_smallest_is_published(home, count):
    assert kept(home, count).published(budget(home)).data >= SMALLEST_SIZE


def test_its_owner_alone_has_another_size_drawn_and_pays_for_it(home):
    sizes = {publish_size(home).data for _ in range(10)}
    assert len(sizes) > 1  # ten alike: less often than once in 10^11 times
    assert charged(home) == [SIZE_EVENT] * 10
    assert kept(home).published(budget(home)) == home.account.sizes


def test_a_limit_that_leaves_no_room_keeps_the_size_secret(home):
    with pytest.raises(BudgetExceeded):
        kept(home).published(budget(home, epsilon_limit=0.05))
    assert home.account.sizes is None


def test_a_crash_between_charge_and_draw_costs_a_charge_and_draws_nothing_unpaid(home, forked):
    def die():
        Budget.charge_size(paying, "size 1")
        os.kill(os.getpid(), signal.SIGKILL)

    paying = budget(home)
    assert forked(die) == -signal.SIGKILL
    assert home.account.sizes is None
    kept(home).published(paying)
    assert charged(home) == [SIZE_EVENT] * 2


def test_a_changed_file_goes_on_with_the_account_and_a_new_one_must_be_disjoint(home):
    home.marks.keep(row_marks(home.source.corpus(), home.split_secret), home.account.name)
    publish_size(home)
    before = home.account.name
    written(home.data, [*ROWS, ("one more", "ill")])
    assert home.account.name == before
    with pytest.raises(DataError, match=r"300 of 301 records .* not disjoint"):
        new_account(home)
    written(home.data, [("one more", "ill"), ("another", "fine")])
    fresh = new_account(home)
    assert home.account.name == fresh != before
    assert home.account.sizes is None
    with Ledger(home.ledger) as ledger:
        note = ledger.entries()[-1]
        assert (note.dataset, note.key) == (fresh, f"declared disjoint/{before}/0")
        assert ledger.spent(fresh, 1e-5) == 0
        assert ledger.spent(before, 1e-5) == pytest.approx(0.1)


def test_records_that_another_account_had_are_left_out_of_the_new_one_one_by_one(home, caplog):
    home.marks.keep(row_marks(home.source.corpus(), home.split_secret), home.account.name)
    written(home.data, [("of before no more", "ill")])
    with Ledger(home.ledger):
        new_account(home)
    written(home.data, [("of before no more", "ill"), *ROWS[:50], ("new", "fine")])
    corpus = home.source.corpus()
    assert corpus.texts == ["of before no more", "new"]
    assert corpus.dropped == {"of another account": 50}
    assert "50 (of another account)" in caplog.text


def test_hashes_of_records_tell_nothing_without_the_owners_secret(home, tmp_path):
    corpus = home.source.corpus()
    mine, other = (row_marks(corpus, secret) for secret in (home.split_secret, bytes(32)))
    assert len(np.intersect1d(mine, other)) == 0
    home.marks.keep(mine, home.account.name)
    [file] = home.marks.folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"note" not in file.read_bytes()
    assert Marks(home.marks.folder).foreign(mine, home.account.name).sum() == 0
    assert Marks(home.marks.folder).foreign(mine, "another").all()


@pytest.mark.parametrize("how", ["copied", "restored"])
def test_a_copy_of_a_folder_that_spent_may_not_spend_until_its_owner_says_it_is_the_only_one(
    home, tmp_path, how
):
    publish_size(home)
    home.account.check_place(home.ledger)
    copy = tmp_path / "copy"
    shutil.copytree(home.path, copy)
    if how == "restored":
        shutil.rmtree(home.path)
        shutil.copytree(copy, home.path)
    other = Home.open(home.path if how == "restored" else copy)
    with pytest.raises(LedgerError, match="umbel client moved"):
        publish_size(other)
    if how == "copied":
        home.account.check_place(home.ledger)  # the first one goes on
    moved(other)
    publish_size(other)
    with Ledger(other.ledger) as ledger:
        assert [e.run for e in ledger.entries()] == ["published size", "moved", "published size"]


def test_a_folder_of_an_earlier_version_is_taken_over_with_all_that_it_spent(home, umbel):
    event = MechanismEvent(1.0, 0.1, 50)
    with Ledger(home.ledger) as ledger:
        for data_set in ("a" * 64, "b" * 64):
            ledger.reserve(data_set, event, job="j", key="run/1/0", delta=1e-5, limit=100)
    for file in (home.account.path, home.split_key):
        file.unlink()
    earlier = f'name = "st-mary"\n[data]\npath = "{home.data}"\n[server]\naddress = "here:1"\n'
    home.settings_file.write_text(earlier)
    with pytest.raises(ConsortiumError, match=r"needs text_column.*umbel client upgrade"):
        _ = Home(home.path).settings
    status, _, err = umbel("client", "upgrade", home.path)
    assert (status, "needs a confirmation" in err) == (2, True)
    for _ in range(2):  # repeated after a crash before the last step
        home.settings_file.write_text(earlier)
        status, out, err = umbel("client", "upgrade", home.path, "--yes")
        assert status == 0, err
        assert "fine (150), ill (150)" in out
    declared = home.settings_file.read_text() + "# by hand\n"
    home.settings_file.write_text(declared)
    status, _, err = umbel("client", "upgrade", home.path, "--yes")
    assert (status, "already declares its data" in err) == (2, True)
    assert home.settings_file.read_text() == declared
    taken = Home.open(home.path)
    assert taken.settings.data.labels == ["fine", "ill"]
    assert taken.address == "here:1"
    with Ledger(taken.ledger) as ledger:
        assert ledger.events(taken.account.name) == [event] * 2
        assert ledger.spent(taken.account.name, 1e-5) == epsilon([event] * 2, 1e-5)
        with pytest.raises(BudgetExceeded):
            ledger.reserve(taken.account.name, event, job="j", key="r/1/0", delta=1e-5, limit=6.0)
        assert ledger.verify() == 4
    [item] = spending(taken.ledger, Policy())
    assert item.dataset == taken.account.name
    assert item.epsilon == epsilon([event] * 2, 1e-5)


def test_a_new_account_over_an_old_ledger_begins_with_nothing_only_if_that_is_declared(home):
    publish_size(home)
    home.account.begin(home.account.fresh_name())
    with pytest.raises(LedgerError, match="holds the spending of 1 other accounts or data sets"):
        publish_size(home)
    moved(home)
    with Ledger(home.ledger) as ledger:
        assert ledger.spent(home.account.name, 1e-5) == pytest.approx(0.1)
    publish_size(home)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="memory has no files here")
def test_a_ledger_put_back_in_place_is_noticed_by_what_the_machine_has_seen(home, tmp_path):
    publish_size(home)
    files = (home.ledger, home.ledger.with_suffix(".witness"))
    copies = [shutil.copy(file, tmp_path) for file in files]
    publish_size(home)
    with Ledger(home.ledger) as ledger:
        home.seen_head.parent.mkdir(exist_ok=True)
        home.seen_head.write_text(f"{ledger.identity} {ledger.head()}")
    for file, copy in zip(files, copies, strict=True):
        file.write_bytes(Path(copy).read_bytes())  # the same file to the file system
    with pytest.raises(LedgerError, match="older than what this machine has already spent"):
        publish_size(home)
    moved(home)
    publish_size(home)
    shutil.rmtree(home.seen_head.parent)


def test_an_account_that_is_lost_or_damaged_is_one_sentence(home):
    home.account.path.write_text("{")
    with pytest.raises(LedgerError, match="is damaged"):
        _ = home.account.name
    home.account.path.unlink()
    with pytest.raises(LedgerError, match="is missing"):
        _ = AccountFile(home.account.path).sizes
    home.split_key.write_bytes(b"short")
    with pytest.raises(LedgerError, match=r"split.key is missing or damaged"):
        _ = home.split_secret


def test_a_declaration_is_proposed_from_the_file_and_stands_as_its_owner_confirms_it(
    card, tmp_path, umbel
):
    data = written(tmp_path / "a.csv", [(*row, "7") for row in ROWS], ("text", "label", "patient"))
    make = ("client", "init", tmp_path / "north", "--data", data, "--consortium", card)
    status, out, err = umbel(*make)
    assert status == 2
    assert "This declaration needs a confirmation" in err
    assert "fine (150), ill (150)" in out
    assert not (tmp_path / "north").exists()
    flags = ("--text-column", "text", "--label", "ill", "--label", "fine", "--label", "unknown")
    grouped = ("--group-column", "patient", "--unit", "group", "--training-share", "0.9")
    status, out, err = umbel(*make, *flags, *grouped)
    assert status == 0, err
    declared = Home.open(tmp_path / "north").settings.data
    assert declared.labels == ["ill", "fine", "unknown"]
    assert (declared.unit, declared.group_column, declared.share) == ("group", "patient", 0.9)
    source = Home.open(tmp_path / "north").source
    assert source.counts(source.corpus()) == Sizes(1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"label_column": "text"}, "300 different values"),
        ({"text_column": "txt"}, "Did you mean 'text'"),
        ({"labels": ["fine"]}, "at least two different classes"),
        ({"labels": ["fine", "fine ", "ill"]}, "name each class once"),
        ({"unit": "group"}, "needs a group_column"),
        ({"unit": "person"}, "unit = 'person'"),
        ({"training_share": 1.5}, "training_share"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused_with_what_is_wrong(tmp_path, given, words):
    data = written(tmp_path / "a.csv", ROWS)
    with pytest.raises((DataError, ConsortiumError), match=words):
        propose(data, **given)


def test_settings_read_back_as_they_were_declared(home, card, tmp_path):
    rows = [("a  b", 'say "x"'), ("c", "back\\slash"), ("d", "ü")]
    data = written(tmp_path / "odd  name.csv", rows)
    other = Home.create(tmp_path / "odd", card, data)
    again = Home.open(other.path)
    assert again.settings.data.labels == propose(data).declared.labels
    assert again.data == data
    assert json.loads(home.account.path.read_text())["size"] is None
