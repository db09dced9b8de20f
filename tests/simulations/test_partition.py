"""One corpus is spread over virtual clients, each row once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.errors import DataError, JobError
from umbel.job import SimulationSpec
from umbel.learning.data import Corpus
from umbel.simulations.partition import Share, parse_scheme, partition


def make_corpus(
    rows: int, classes: int | None = 4, clients: list[str] | None = None
) -> tuple[Corpus, np.ndarray, np.ndarray]:
    """A corpus with labels in turn, and every fifth row held out."""
    labels = None if classes is None else np.arange(rows, dtype=np.int64) % classes
    names = () if classes is None else tuple(map(str, range(classes)))
    corpus = Corpus([f"text {i}" for i in range(rows)], labels, names, None, clients, None, {})
    numbers = np.arange(rows)
    return corpus, numbers[numbers % 5 != 0], numbers[numbers % 5 == 0]


def share_out(
    data: tuple[Corpus, np.ndarray, np.ndarray], scheme: str, clients: int | None, seed: int = 0
) -> list[Share]:
    shares: list[Share] = partition(*data, SimulationSpec(partition=scheme, clients=clients), seed)
    return shares


def labels_of(corpus: Corpus, rows: np.ndarray) -> np.ndarray:
    assert corpus.labels is not None
    labels: np.ndarray = corpus.labels[rows]
    return labels


@given(
    st.sampled_from(["iid", "dirichlet:100", "shards:2", "column:site"]),
    st.integers(1, 6),
    st.integers(200, 300),
    st.integers(0, 2**63 - 1),
)
def test_every_row_goes_to_one_client_on_its_own_side(
    scheme: str, clients: int, rows: int, seed: int
) -> None:
    data = make_corpus(rows, clients=[f"site {i // 7 % clients}" for i in range(rows)])
    natural = scheme == "column:site"
    shares = share_out(data, scheme, None if natural else clients, seed)
    _, train, test = data
    for rows_given, side in ((train, "train"), (test, "test")):
        parts = [getattr(share, side) for share in shares]
        assert all(part.dtype == np.int64 for part in parts)
        assert all((np.diff(part) > 0).all() for part in parts)
        assert np.array_equal(np.sort(np.concatenate(parts)), rows_given)
    assert all(len(share.train) > 0 for share in shares)
    assert len({share.name for share in shares}) == len(shares)
    again = share_out(data, scheme, None if natural else clients, seed)
    for one, other in zip(shares, again, strict=True):
        assert one.name == other.name
        assert np.array_equal(one.train, other.train)
        assert np.array_equal(one.test, other.test)


@given(
    st.sampled_from(["iid", "dirichlet:100", "shards:2"]),
    st.integers(1, 6),
    st.lists(st.integers(0, 60), min_size=200, max_size=250),
    st.integers(0, 2**63 - 1),
)
def test_a_group_that_is_protected_lies_with_one_client(
    scheme: str, clients: int, groups: list[int], seed: int
) -> None:
    numbers = np.array(groups)
    corpus, *_ = make_corpus(len(groups))
    held_out = numbers % 5 == 0
    train, test = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if len(set(numbers[train])) < 20:
        return
    spec = SimulationSpec(partition=scheme, clients=clients)
    shares = partition(corpus, train, test, spec, seed, numbers)
    for rows_given, side in ((train, "train"), (test, "test")):
        parts = [getattr(share, side) for share in shares]
        assert np.array_equal(np.sort(np.concatenate(parts)), rows_given)
        held = [set(numbers[part].tolist()) for part in parts]
        assert sum(map(len, held)) == len(set().union(*held))


def test_natural_clients_hold_the_rows_of_their_value_in_order_of_value() -> None:
    values = [str(i % 11) for i in range(330)]
    shares = share_out(make_corpus(330, clients=values), "column:site", None)
    assert [share.name for share in shares] == [str(i) for i in range(11)]
    for share in shares:
        assert {values[row] for row in [*share.train, *share.test]} == {share.name}


def test_client_names_are_safe_for_files() -> None:
    values = ["St. Mary's / Ward 3", "../北京", "plain"] * 50
    shares = share_out(make_corpus(150, clients=values), "column:site", None)
    assert [share.name for share in shares] == ["北京", "St.-Mary-s-Ward-3", "plain"]


@pytest.mark.parametrize("pair", [("Ward 1", "ward-1"), ("a" * 70 + "b", "a" * 70 + "c")])
def test_clients_that_would_share_a_file_name_are_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="would both be called") as caught:
        share_out(make_corpus(20, clients=list(pair) * 10), "column:site", None)
    assert repr(pair[0]) in str(caught.value)


def test_a_client_without_a_printable_name_is_refused() -> None:
    with pytest.raises(DataError, match="no letter or digit"):
        share_out(make_corpus(20, clients=["//", "a"] * 10), "column:site", None)


def test_a_client_with_held_out_rows_only_is_refused_by_name() -> None:
    values = ["big"] * 20
    values[5] = "tiny"
    with pytest.raises(DataError, match=r"1 of 2 clients: 'tiny' \(1 held out\)"):
        share_out(make_corpus(20, clients=values), "column:site", None)


def test_random_shares_are_even_and_the_seed_matters() -> None:
    data = make_corpus(1003)
    shares = share_out(data, "iid", 7)
    for side in ("train", "test"):
        sizes = [len(getattr(share, side)) for share in shares]
        assert max(sizes) - min(sizes) <= 1
    other = share_out(data, "iid", 7, seed=1)
    assert not np.array_equal(shares[0].train, other[0].train)
    assert not np.array_equal(shares[0].test, other[0].test)


def test_four_clients_are_the_default() -> None:
    shares = share_out(make_corpus(100), "iid", None)
    assert [share.name for share in shares] == [f"client-000{i}" for i in range(1, 5)]


def test_a_smaller_alpha_skews_the_labels_more() -> None:
    data = make_corpus(8000)

    def skew(scheme: str) -> float:
        """Mean share of a client's most frequent label; 0.25 without skew."""
        tops = [
            np.bincount(labels_of(data[0], share.train)).max() / len(share.train)
            for share in share_out(data, scheme, 10, seed=3)
        ]
        return float(np.mean(tops))

    assert skew("dirichlet:1000") < 0.3
    assert 0.4 < skew("dirichlet:1") < skew("dirichlet:0.1")


def test_a_skew_that_leaves_a_client_empty_is_refused() -> None:
    with pytest.raises(DataError, match=r"Lower simulation\.clients or give a larger ALPHA"):
        share_out(make_corpus(200), "dirichlet:0.01", 50)


@pytest.mark.parametrize("each", [1, 2, 3])
def test_shards_give_a_client_few_labels_and_even_sizes(each: int) -> None:
    data = make_corpus(4000, classes=20)
    shares = share_out(data, f"shards:{each}", 20)
    for share in shares:
        # A shard of an even share of 20 equal classes spans two labels at most.
        assert len(np.unique(labels_of(data[0], share.train))) <= 2 * each
    sizes = [len(share.train) for share in shares]
    assert max(sizes) - min(sizes) <= each


def test_more_clients_or_shards_than_rows_are_refused() -> None:
    with pytest.raises(DataError, match="not enough to give each of 9 clients"):
        share_out(make_corpus(10), "iid", 9)
    with pytest.raises(DataError, match="needs 10 training rows"):
        share_out(make_corpus(10), "shards:2", 5)


@pytest.mark.parametrize("scheme", ["dirichlet:1", "shards:2"])
def test_schemes_by_label_are_refused_without_labels(scheme: str) -> None:
    with pytest.raises(JobError, match="needs labels"):
        share_out(make_corpus(100, classes=None), scheme, 4)
    assert len(share_out(make_corpus(100, classes=None), "iid", 4)) == 4


@pytest.mark.parametrize(
    "text", ["", "random", "iid:3", "column:", "columns:site", "column", "Dirichlet:1"]
)
def test_an_unknown_scheme_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_scheme(text)
    for known in ("column:NAME", "iid", "dirichlet:ALPHA", "shards:K"):
        assert known in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [f"dirichlet{argument}" for argument in ("", ":x", ":0", ":-1", ":inf", ":nan")]
    + [f"shards{argument}" for argument in ("", ":0", ":1.5", ":-2")],
)
def test_an_impossible_argument_of_a_scheme_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"must be a (whole )?number above 0"):
        parse_scheme(text)


def test_a_column_name_may_hold_a_colon() -> None:
    assert parse_scheme("column:a:b").column == "a:b"
    assert parse_scheme(" dirichlet: 0.5 ").alpha == 0.5
    assert parse_scheme("shards:12").shards == 12


def test_the_number_of_natural_clients_is_not_given_twice() -> None:
    with pytest.raises(JobError, match="Remove one of them"):
        share_out(make_corpus(20, clients=["a", "b"] * 10), "column:site", 2)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:100", "shards:2", "column:user"])
def test_ten_thousand_clients_are_dealt_quickly(scheme: str) -> None:
    natural = scheme == "column:user"
    data = make_corpus(
        200_000, clients=[f"user {i % 10_000}" for i in range(200_000)] if natural else None
    )
    data = (data[0], np.arange(150_000), np.arange(150_000, 200_000))
    start = time.process_time()
    shares = share_out(data, scheme, None if natural else 10_000)
    assert time.process_time() - start < 2
    assert len(shares) == 10_000
    assert min(len(share.train) for share in shares) > 0
    if not natural:
        assert shares[0].name == "client-00001"


@given(
    st.lists(
        st.text(st.characters(categories=["L"]), min_size=1, max_size=90), min_size=2, max_size=4
    )
)
def test_a_client_is_called_no_longer_than_a_files_name_may_be(names: list[str]) -> None:
    """Counted in bytes, with room for endings: sixty letters of four bytes each left none."""
    try:
        shares = share_out(
            make_corpus(40, clients=[names[row % len(names)] for row in range(40)]),
            "column:x",
            None,
        )
    except DataError:
        return  # two of them are alike
    for share in shares:
        assert 0 < len(f".{share.name}.sqlite-journal.partial".encode()) <= 255
