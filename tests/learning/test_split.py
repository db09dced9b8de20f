"""Which records are held out, and the fingerprint of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from umbel.learning.data import Corpus
from umbel.learning.split import fingerprint, split_rows

from .tables import LINES


def corpus_of(texts: list[str], groups: list[str] | None = None) -> Corpus:
    return Corpus(texts, None, (), groups, None, None, {})


ROW = st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", "1", "2", "3", "4", "5", "6"]))


@given(st.lists(ROW, max_size=30), st.floats(0.01, 1), st.binary(max_size=64), st.data())
def test_a_rows_side_does_not_depend_on_the_other_rows(
    rows: list[tuple[str, str]], share: float, secret: bytes, data: st.DataObject
) -> None:
    texts, groups = [row[0] for row in rows], [row[1] for row in rows]
    train, test = split_rows(corpus_of(texts, groups), share, secret)
    assert train.dtype == test.dtype == np.int64
    assert sorted([*train, *test]) == list(range(len(rows)))
    assert sorted(train) == list(train)
    assert sorted(test) == list(test)
    held_out = {rows[i] for i in test}
    own = data.draw(st.lists(st.sampled_from(rows), max_size=8) if rows else st.just([]))
    _, own_test = split_rows(corpus_of([r[0] for r in own], [r[1] for r in own]), share, secret)
    assert [i for i, row in enumerate(own) if row in held_out] == own_test.tolist()
    sides: dict[tuple[str, str], bool] = {}
    for i, (text, group) in enumerate(rows):
        key = ("group", group) if group else ("text", text)
        assert sides.setdefault(key, i in test) == (i in test)


def test_the_held_out_share_is_what_was_declared_and_the_secret_decides() -> None:
    corpus = corpus_of([f"text {i}" for i in range(20_000)])
    _, test = split_rows(corpus, 0.8, b"1")
    assert abs(len(test) / 20_000 - 0.2) < 0.01
    _, other = split_rows(corpus, 0.8, b"2")
    assert abs(len(np.intersect1d(test, other)) / 20_000 - 0.04) < 0.01
    _, none = split_rows(corpus, 1.0, b"1")
    assert len(none) == 0
    _, more = split_rows(corpus, 0.7, b"1")
    assert set(test) < set(more)


@given(st.lists(st.tuples(LINES, LINES), max_size=8), st.randoms(use_true_random=False))
def test_a_fingerprint_does_not_depend_on_order(rows: list[tuple[str, str]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    print_ = fingerprint(texts, labels)
    assert print_ == fingerprint([text for text, _ in shuffled], [label for _, label in shuffled])
    assert len(print_) == 64
    if rows:
        assert print_ != fingerprint(texts, None)
        assert print_ != fingerprint([*texts, texts[0]], [*labels, labels[0]])
        assert print_ != fingerprint([texts[0] + "x", *texts[1:]], labels)


def test_a_fingerprint_keeps_label_and_text_apart() -> None:
    assert fingerprint(["bc"], ["a"]) != fingerprint(["c"], ["ab"])
    assert fingerprint(["a", "b"], ["x", "y"]) != fingerprint(["a", "b"], ["y", "x"])
