"""Masks: the right keystream for every thread count and length, and nothing to be seen through it."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from umbel.privacy.secagg.fixed_point import Layout
from umbel.privacy.secagg.masks import add_masks, digest_of
from umbel.privacy.secagg.roster import Limits

SIGNIFICANCE = 1e-11
"""A test that should not reject does so by chance once in a million runs."""
CHUNK = 1 << 16
"""Words that are masked at a time."""


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """Nothing here cuts the power: what the disk keeps is the matter of the journal's own tests."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def whole_keystream(key: bytes, n: int) -> np.ndarray:
    """AES-128-CTR over the whole vector at once."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * n))
    return np.frombuffer(stream, dtype="<u4")


def added_one_by_one(words: np.ndarray, masks: list[tuple[bytes, int]]) -> np.ndarray:
    total = words.astype(object)
    for key, sign in masks:
        total = total + sign * whole_keystream(key, len(words)).astype(object)
    return (total % 2**32).astype("<u4")


masks_of = st.lists(
    st.tuples(st.binary(min_size=16, max_size=16), st.sampled_from([1, -1])), max_size=4
)


@given(st.integers(0, 3000), masks_of, st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_masks_are_added_as_whole_keystreams_would_be(n, masks, threads, seed):
    words = np.random.default_rng(seed).integers(0, 2**32, n, dtype="<u4")
    expected = added_one_by_one(words, masks)
    add_masks(words, masks, threads)
    assert np.array_equal(words, expected)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "n",
    [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 3, 2 * CHUNK + 5, 3 * CHUNK + 7, 5 * CHUNK + 2],
)
def test_chunk_borders_and_threads_do_not_show_in_the_masked_vector(n, threads):
    masks = [(bytes([i]) * 16, 1 if i % 2 else -1) for i in range(3)]
    words = np.arange(n, dtype="<u4")
    expected = words.copy()
    for key, sign in masks:
        stream = whole_keystream(key, n)
        expected = expected + stream if sign > 0 else expected - stream
    add_masks(words, masks, threads)
    assert np.array_equal(words, expected)


@given(st.integers(1, 4), st.integers(-9, 9), masks_of, st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_what_was_added_can_be_taken_away_with_any_other_number_of_threads(
    chunks, more, masks, threads, others
):
    n = chunks * CHUNK + more
    words = np.zeros(n, dtype="<u4")
    add_masks(words, masks, threads)
    add_masks(words, [(key, -sign) for key, sign in masks], others)
    assert not words.any()


def test_two_masks_of_opposite_sign_cancel():
    words = np.arange(1001, dtype="<u4")
    add_masks(words, [(b"k" * 16, 1), (b"k" * 16, -1)])
    assert np.array_equal(words, np.arange(1001, dtype="<u4"))


@pytest.mark.parametrize(
    "words",
    [
        np.zeros(8, "<i4"),
        np.zeros(8, "<u8"),
        np.zeros(8, "<f4"),
        np.zeros(8, ">u4"),
        np.zeros(8, "<u2"),
        np.zeros((2, 4), "<u4"),
        np.zeros(16, "<u4")[::2],
    ],
    ids=["signed", "64 bits", "float", "big-endian", "16 bits", "matrix", "strided"],
)
def test_only_contiguous_vectors_of_little_endian_words_are_masked(words):
    with pytest.raises(ValueError, match="contiguous vector of uint32"):
        add_masks(words, [(bytes(16), 1)])
    assert not words.any()


@pytest.mark.parametrize("length", [0, 15, 17, 24, 32])
def test_only_keys_of_128_bits_are_taken(length):
    words = np.zeros(8, "<u4")
    with pytest.raises(ValueError, match="16 bytes"):
        add_masks(words, [(bytes(16), 1), (bytes(length), 1)])
    assert not words.any()


def test_the_digest_is_over_little_endian_words_whatever_the_layout_in_memory():
    words = np.arange(100, dtype="<u4")
    assert digest_of(words) == digest_of(words.astype(">u4"))
    assert digest_of(words) == digest_of(np.repeat(words, 2)[::2])
    assert digest_of(words) != digest_of(words[:-1])


# Whether masked vectors can be told from uniform ones.


def seen_through(vectors: np.ndarray) -> list[str]:
    """Which tests reject that uint32[vectors, words] is uniform; each at its part of SIGNIFICANCE."""
    data = vectors.astype("<u4")
    wide = data.view("<u2").reshape(len(data), -1)
    narrow = data.view("u1").reshape(len(data), -1)
    samples = {
        "all bytes": (narrow, 256),
        "all 16-bit words": (wide, 65536),
        **{f"byte {k} of words": (narrow[:, k::4], 256) for k in range(4)},
        **{f"first 16-bit word {k}": (wide[:, k::2], 4096) for k in range(2)},
        "first half": (narrow[:, : narrow.shape[1] // 2], 256),
        "last 64 words": (narrow[:, -256:], 256),
        **{f"vector {k}": (narrow[k], 256) for k in range(min(len(narrow), 6))},
    }
    found = []
    for name, (sample, bins) in samples.items():
        values = sample.reshape(-1).astype(np.int64)
        if bins == 4096:
            values >>= 4
        counts = np.bincount(values, minlength=bins)
        if stats.chisquare(counts).pvalue < SIGNIFICANCE / len(samples):
            found.append(name)
    return found


@pytest.fixture
def masked(cohort):
    """Masked vectors of several members and slots: uint32[slots, members, words]."""

    def collect(plain: int, parameters: int, slots: int = 3, size: int = 4) -> np.ndarray:
        members = cohort(size=size, limits=Limits(colluders=0.0))
        collected = []
        for number in range(1, slots + 1):
            server = members.open_slot(number)
            members.send_prekeys(server)
            members.close_prekeys(server, parameters)
            length = Layout(parameters, 2, 1).length
            row = []
            for name in server.members:
                words = np.full(length, plain, dtype="<u4")
                request = server.upload_request(name)
                context = server._manifest.context
                row.append(members.participants[name].upload(request, context, words)[1].copy())
            collected.append(row)
        return np.array(collected)

    return collect


@pytest.mark.parametrize("plain", [0, 1, 2**32 - 1, 0x01010101])
def test_masked_vectors_of_equal_words_look_uniform(plain, masked):
    vectors = masked(plain, 40_000)
    assert seen_through(vectors.reshape(-1, vectors.shape[-1])) == []


def test_the_first_words_look_uniform_over_many_slots_and_members(masked):
    vectors = masked(0, 6, slots=60)
    first = vectors.reshape(1, -1)
    assert len(np.unique(first)) > first.size - 3  # birthday: 0.0006 pairs expected in 3120 words
    counts = np.bincount(first.view("u1").reshape(-1), minlength=256)
    assert stats.chisquare(counts).pvalue > SIGNIFICANCE


def test_the_tests_reject_masks_of_24_bits_and_no_masks_at_all(masked):
    vectors = masked(0, 40_000, slots=1)[0]
    assert seen_through(vectors) == []
    assert "byte 3 of words" in seen_through(vectors & np.uint32(0xFFFFFF))
    assert "byte 0 of words" in seen_through(vectors & np.uint32(0xFFFFFF00))
    random = np.random.default_rng(1)
    update = random.normal(0, 2.0**20, vectors.shape).astype(np.int32).view("<u4")
    assert "all bytes" in seen_through(update)
    # A mask of 28 bits a word over a small update, and words that lack a single bit.
    assert seen_through((vectors & np.uint32(2**28 - 1)) + update)
    assert seen_through(vectors | np.uint32(1 << 17))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of no correlation between two vectors of words."""
    return float(stats.pearsonr(a.astype(np.float64), b.astype(np.float64)).pvalue)


def equal_words(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of as many equal low bytes at the same places as two independent vectors have."""
    same = int(np.count_nonzero((a & 255) == (b & 255)))
    return float(stats.binomtest(same, len(a), 1 / 256).pvalue)


def test_two_vectors_are_uncorrelated_be_they_of_one_member_or_of_two(masked):
    vectors = masked(0, 40_000, slots=2, size=3)
    a, b = vectors
    pairs = [(a[i], b[j]) for i in range(3) for j in range(3)]
    pairs += [(a[0], a[1]), (a[0], a[2]), (a[1], a[2])]
    for one, other in pairs:
        assert correlation(one, other) > SIGNIFICANCE
        assert equal_words(one, other) > SIGNIFICANCE
        assert seen_through((one - other)[None]) == []
    # Power: the same mask twice, over different updates, is seen at once.
    small = np.random.default_rng(2).integers(0, 1000, a[0].shape, dtype=np.uint32)
    assert correlation(a[0], a[0] + small) < SIGNIFICANCE
    assert seen_through((a[0] + small - a[0])[None])


def test_no_part_of_a_cohort_sums_to_anything_but_uniform_words(masked):
    """Pair masks cancel in the whole sum only; the self masks stay even there."""
    vectors = masked(0, 40_000, slots=1)[0]
    for part in ([0, 1], [1, 3], [0, 1, 2], [0, 1, 2, 3]):
        total = vectors[part].sum(axis=0, dtype=np.uint32)
        assert seen_through(total[None]) == []


def test_no_key_masks_two_vectors_in_a_long_run(cohort, monkeypatch):
    """Pair keys have two owners, and every other key one; over all slots none comes back."""
    from umbel.privacy.secagg import member

    used: list[tuple[bytes, int]] = []

    def record(words, masks, threads=1):
        used.extend(masks)
        add_masks(words, masks, threads)

    monkeypatch.setattr(member, "add_masks", record)
    members = cohort(size=3, limits=Limits(colluders=0.0))
    for number in range(1, 16):
        members.sum(number)
    assert len(used) == 15 * 3 * 3
    assert len(set(used)) == len(used)
    assert len({key for key, _ in used}) == 15 * (3 + 3)
