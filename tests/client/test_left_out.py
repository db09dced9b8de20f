"""Records that killed the worker are known again, one by one, and by nobody else."""

import stat

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from umbel.client.left_out import LeftOut

TEXTS = ["a", "b", "a", "c", "a"]
SECRET = bytes(range(32))


def remembered(folder, texts=TEXTS, rows=(), secret=SECRET):
    left_out = LeftOut(folder / "left-out.npy")
    if rows:
        left_out.add(texts, rows, secret)
    return left_out


def test_what_was_left_out_is_left_out_by_the_next_agent_and_kept_for_the_owner_alone(tmp_path):
    remembered(tmp_path, rows=[1])
    remembered(tmp_path, rows=[3])
    again = remembered(tmp_path)
    assert again.rows(TEXTS, SECRET) == {1, 3}
    assert len(again) == 2
    assert stat.S_IMODE(again.file.stat().st_mode) == 0o600
    # In another order, as when a file is written anew.
    assert again.rows(["c", "x", "b"], SECRET) == {0, 2}


def test_one_hash_leaves_out_one_of_equal_records(tmp_path):
    again = remembered(tmp_path, rows=[0, 4])
    assert len(again.rows(TEXTS, SECRET)) == 2
    assert len(again.rows([*TEXTS, "a", "a"], SECRET)) == 2
    assert len(again.rows(["a"], SECRET)) == 1


def test_the_hashes_tell_nothing_without_the_owners_secret(tmp_path):
    again = remembered(tmp_path, rows=[0, 1, 3])
    assert again.rows(TEXTS, bytes(32)) == frozenset()
    other = tmp_path / "other"
    other.mkdir()
    one, two = (
        np.load(made.file) for made in (again, remembered(other, rows=[0], secret=bytes(32)))
    )
    assert not {row.tobytes() for row in one} & {row.tobytes() for row in two}


def test_a_damaged_file_costs_restarts_and_no_answer(tmp_path):
    again = remembered(tmp_path, rows=[1])
    for content in (b"", b"damaged", again.file.read_bytes()[:-3]):
        again.file.write_bytes(content)
        assert again.rows(TEXTS, SECRET) == frozenset()
        again.add(TEXTS, [1], SECRET)
        assert again.rows(TEXTS, SECRET) == {1}


@given(
    texts=st.lists(st.sampled_from("abc"), min_size=1, max_size=12),
    more=st.sampled_from("abcd"),
    data=st.data(),
)
def test_one_record_more_changes_by_one_at_most_how_many_are_left_out(
    texts, more, data, tmp_path_factory
):
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, unique=True))
    again = remembered(tmp_path_factory.mktemp("owner"), texts, rows)
    place = data.draw(st.integers(0, len(texts)))
    neighbour = [*texts[:place], more, *texts[place:]]
    without, with_it = (
        sorted(text for n, text in enumerate(some) if n not in again.rows(some, SECRET))
        for some in (texts, neighbour)
    )
    assert len(with_it) - len(without) in (0, 1)
    kept = list(with_it)
    for text in without:
        kept.remove(text)  # everybody who took part still does
