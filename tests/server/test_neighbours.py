"""What an owner sends must not tell neighbouring data sets apart, beside what is charged or masked.

Whole runs over real agents, encrypted and in the clear, twice: once with an owner's data, once with
neighbouring ones. Published size and streams are held equal, so whatever differs beside noised
releases and masked words would be a door.
"""

import csv
import dataclasses

import numpy as np
import pytest

from umbel.client.account import SeededSize
from umbel.client.gate import FIELDS
from umbel.privacy.noise.sizes import Sizes
from umbel.server.rounds import run_rounds
from umbel.wire.packing import SECAGG
from umbel.wire.requests import LEDGER

NODE = 2
FRESH = {(SECAGG, "reply"), (LEDGER, "head")}
"""Public fields made of fresh keys: they never repeat, and their lengths must not tell anything."""
WORDS = ["plain", "dull", "grand", "rare", "warm", "cold", "quick", "slow", "bright", "dim"]
LONGEST = 5000
GROUP = 5
"""Long texts that belong to one patient."""


def a_text(number, words):
    """Texts that all differ."""
    spelt = [WORDS[(number // 10**place) % 10] for place in range(4)]
    return " ".join([*spelt, *(WORDS[(number + place) % 10] for place in range(words - 4))])


@pytest.fixture(scope="session")
def pool_csv(tmp_path_factory):
    """Rows of one owner, "a", that tests choose from, and 40 of each of three others.

    Its first rows are short texts of both classes; behind them, for the first twenty, the same text
    with the other class, and a long one.
    """
    path = tmp_path_factory.mktemp("pool") / "pool.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "site", "patient"])

        def write(number, words, label, site, patient):
            name = ["negative", "positive"][label % 2]
            writer.writerow([a_text(number, words), name, site, patient])

        for number in range(LONGEST + 20):
            write(number, 6, number, "a", f"short {number}")
        for number in range(20):
            write(number, 6, number + 1, "a", f"short {number}")
            write(number, 22, number, "a", f"long {number // GROUP}")
        for site in "bcd":
            for number in range(40):
                write(9000 + number, 8, number, site, f"{site} {number}")
    return path


class Pool:
    """The rows of the owner that changes."""

    def __init__(self, federation):
        self.federation = federation
        share = next(share for share in federation.shares if share.name == "a")
        rows = np.sort(np.concatenate([share.train, share.test]))
        self.short, rest = rows[: LONGEST + 20], rows[LONGEST + 20 :]
        self.other_label, self.long = rest[0::2], rest[1::2]

    def with_rows(self, train, test):
        """The federation in which the owner holds exactly these rows."""
        shares = tuple(
            dataclasses.replace(
                share, train=np.array(train, np.int64), test=np.array(test, np.int64)
            )
            if share.name == "a"
            else share
            for share in self.federation.shares
        )
        tested = {share.name: share.test for share in shares}
        return dataclasses.replace(self.federation, shares=shares, tested=tested)


def neighbours(pool, size, change):
    """Rows for training and for tests, and those of a neighbour."""
    train, test = list(pool.short[20 : 20 + size]), list(pool.short[:10])
    other_train, other_test = list(train), list(test)
    if change == "one record more":
        other_train.append(pool.long[0])
    elif change == "one group more":
        other_train += list(pool.long[:GROUP])
    elif change == "one held-out record more":
        other_test.append(pool.long[0])
    elif change == "one text longer":
        train[0:1], other_train[0:1] = [pool.short[0]], [pool.long[0]]
        test = other_test = list(pool.short[1:10])
    elif change == "one label changed":
        train[0:1], other_train[0:1] = [pool.short[0]], [pool.other_label[0]]
        test = other_test = list(pool.short[1:10])
    else:
        raise ValueError(change)
    return (train, test), (other_train, other_test)


def heard(start_run, job, federation, name):
    """All that the owner's node answered, in order: kind, and each field as it may be compared."""
    said = []

    def listen(request, reply, assignment):
        if request.metadata.dst_node_id == NODE:
            said.append((request.metadata.message_type, *observable(reply)))
        return [reply]

    run = start_run(job, listen, name=name, federation=federation)
    run_rounds(run)
    assert run.names[NODE] == "a"
    return said


def observable(reply):
    """Error text; or of each field its value, where it is public, and its form where it is not."""
    if reply.has_error():
        return "error", reply.error.code, reply.error.reason
    fields = []
    for record, values in reply.content.items():
        for field, value in values.items():
            known = FIELDS[record]
            kind = known.get("*") or known[field.partition(".")[0]]
            plain = kind == "public" and (record, field) not in FRESH
            fields.append((record, field, value if plain else form(value)))
    return "content", *fields


def form(value):
    """What of a secret value is open: its length, type and shape."""
    if hasattr(value, "shape"):
        return value.dtype, tuple(value.shape), len(value.data)
    if isinstance(value, bytes | str | list):
        return type(value).__name__, len(value)
    return type(value).__name__


@pytest.fixture
def constant_size(monkeypatch):
    """The published size of every owner, whatever its file holds."""
    monkeypatch.setattr(SeededSize, "value", property(lambda self: Sizes(130)))


@pytest.fixture
def pool_of(federation_of):
    pools = {}

    def build(job):
        return pools.setdefault(job.to_json(), Pool(federation_of(job)))

    return build


@pytest.fixture(params=["encrypted", "in the clear"])
def job(request, job_of, open_job_of, pool_csv):
    build = job_of if request.param == "encrypted" else open_job_of
    data = {"path": str(pool_csv)}
    return build(data=data, cohort={"minimum": 3}, evaluation={"every": 1})


CHANGES = ["one record more", "one held-out record more", "one text longer", "one label changed"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [1, pytest.param(100, marks=pytest.mark.slow)])
def test_neighbours_are_answered_for_alike(start_run, job, pool_of, constant_size, size, change):
    pool = pool_of(job)
    mine, others = neighbours(pool, size, change)
    first = heard(start_run, job, pool.with_rows(*mine), "one")
    second = heard(start_run, job, pool.with_rows(*others), "two")
    assert first == second
    assert {kind for kind, *_ in first} >= {"query.prepare", "train"}
    assert not any("error" in said for said in first)


@pytest.mark.parametrize("change", ["one record more", "one held-out record more"])
@pytest.mark.parametrize(
    "size", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (99, 101, LONGEST))]
)
def test_no_size_is_an_edge(start_run, job, pool_of, constant_size, size, change):
    pool = pool_of(job)
    mine, others = neighbours(pool, size, change)
    first = heard(start_run, job, pool.with_rows(*mine), "one")
    assert first == heard(start_run, job, pool.with_rows(*others), "two")


@pytest.mark.parametrize("size", [1, 100])
def test_one_group_more_is_answered_for_alike(
    start_run, job_of, pool_csv, pool_of, constant_size, size
):
    data = {"path": str(pool_csv), "group_column": "patient", "records_per_group": 2}
    job = job_of(data=data, privacy={"unit": "group"}, cohort={"minimum": 3})
    pool = pool_of(job)
    mine, others = neighbours(pool, size, "one group more")
    first = heard(start_run, job, pool.with_rows(*mine), "one")
    assert first == heard(start_run, job, pool.with_rows(*others), "two")


def test_an_exact_size_would_be_heard(start_run, job, pool_of, monkeypatch):
    """The same with an agent that publishes what its file holds."""
    monkeypatch.setattr(SeededSize, "value", property(lambda self: Sizes(130 + self.counts.data)))
    pool = pool_of(job)
    mine, others = neighbours(pool, 99, "one record more")
    first = heard(start_run, job, pool.with_rows(*mine), "one")
    assert first != heard(start_run, job, pool.with_rows(*others), "two")
