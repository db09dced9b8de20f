import pickle

import numpy as np
import pytest

from umbel.learning import examples as module
from umbel.learning.examples import Examples, tokenise
from umbel.learning.inputs import beginning
from umbel.learning.tokenizer import load_tokenizer

LENGTH = 24


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(tiny("bert"))


@pytest.fixture(scope="module")
def decoder(tiny):
    return load_tokenizer(tiny("llama"))


def rows_of(store):
    return [store.tokens(row).tolist() for row in range(len(store.labels))]


def test_a_store_holds_each_text_as_the_tokenizer_reads_it(texts, labels, tokenizer):
    store = tokenise(texts, labels, tokenizer, LENGTH)
    assert rows_of(store) == tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
    assert np.array_equal(store.labels, labels)
    assert max(map(len, rows_of(store))) == LENGTH


def test_a_rows_tokens_do_not_depend_on_other_rows(texts, tokenizer, decoder):
    for tokens, eos in ((tokenizer, False), (decoder, True)):
        together = tokenise(texts, None, tokens, LENGTH, end_with_eos=eos)
        for row in (0, 5, len(texts) - 1):
            alone = tokenise([texts[row]], None, tokens, LENGTH, end_with_eos=eos)
            assert np.array_equal(alone.tokens(0), together.tokens(row))


def test_the_same_texts_are_tokenised_once(texts, labels, tiny, monkeypatch):
    first = tokenise(texts[:9], labels[:9], load_tokenizer(tiny("bert")), LENGTH)
    monkeypatch.setattr(module, "_write_store", lambda *_: pytest.fail("tokenised again"))
    assert tokenise(texts[:9], labels[:9], load_tokenizer(tiny("bert")), LENGTH) == first


def test_a_tokenizer_that_was_used_before_finds_the_same_store(texts, tiny):
    tokenizer = load_tokenizer(tiny("bert"))
    first = tokenise(texts[20:29], None, tokenizer, LENGTH)
    assert tokenise(texts[20:29], None, tokenizer, LENGTH) == first


def test_other_texts_labels_lengths_or_tokenizers_get_a_store_of_their_own(
    texts, labels, tokenizer, decoder
):
    stores = [
        tokenise(texts[:9], labels[:9], tokenizer, LENGTH),
        tokenise(texts[1:10], labels[:9], tokenizer, LENGTH),
        tokenise(texts[:9], 1 - labels[:9], tokenizer, LENGTH),
        tokenise(texts[:9], None, tokenizer, LENGTH),
        tokenise(texts[:9], labels[:9], tokenizer, LENGTH - 1),
        tokenise(texts[:9], labels[:9], decoder, LENGTH),
        tokenise(texts[:9], labels[:9], decoder, LENGTH, end_with_eos=True),
    ]
    assert len({store.folder for store in stores}) == len(stores)


def test_a_language_models_text_ends_with_one_end_of_text_where_there_is_room(texts, decoder):
    store = tokenise(texts, None, decoder, LENGTH, end_with_eos=True)
    end = decoder.eos_token_id
    for text, row in zip(texts, rows_of(store), strict=True):
        bare = decoder(text)["input_ids"]
        assert row == [*bare, end][:LENGTH]


def test_an_end_of_text_that_the_tokenizer_writes_itself_is_not_doubled(texts, tokenizer):
    store = tokenise(texts, None, tokenizer, LENGTH, end_with_eos=True)
    assert all(row[-2:] != [tokenizer.eos_token_id] * 2 for row in rows_of(store))


def test_a_tokenizer_without_an_end_of_text_adds_none(texts, minilm):
    from umbel.learning.base_model import base_folder

    bert = load_tokenizer(base_folder(minilm))
    assert bert.eos_token_id is None
    store = tokenise(texts[:5], None, bert, LENGTH, end_with_eos=True)
    assert rows_of(store) == bert(texts[:5], truncation=True, max_length=LENGTH)["input_ids"]


def test_a_text_without_a_token_is_no_record(decoder):
    store = tokenise(["a text", "", "another"], None, decoder, LENGTH)
    everybody = Examples(store, np.arange(3))
    assert everybody.readable().rows.tolist() == [0, 2]


def test_a_text_that_the_tokenizer_fails_on_is_no_record_and_changes_no_other(texts, decoder):
    wrong = texts[3]

    def fail_on_it(chunk, **named):
        if wrong in chunk:
            raise RuntimeError("something about this text")
        return decoder(chunk, **named)

    class Failing:
        """The tokenizer, but for one text."""

        def __call__(self, *arguments, **named):
            return fail_on_it(*arguments, **named)

        def __getattr__(self, name):
            return getattr(decoder, name)

    chosen = texts[:6]
    whole = rows_of(tokenise(chosen, None, decoder, LENGTH))
    # The cache knows these texts by now, so others stand around the failing one.
    store = tokenise(chosen[::-1], None, Failing(), LENGTH)
    found = rows_of(store)[::-1]
    assert found == [*whole[:3], [], *whole[4:]]
    assert 2 not in Examples(store, np.arange(6)).readable().rows


def test_rows_that_are_left_out_have_no_token_and_are_not_touched(texts, decoder):
    told = []
    chosen, left = texts[:6], frozenset({1, 4})
    store = tokenise(chosen, None, decoder, LENGTH, left_out=left, touch=told.append)
    assert told == [0, 2, 3, 5]
    whole = rows_of(tokenise(chosen, None, decoder, LENGTH))
    assert rows_of(store) == [[] if row in left else whole[row] for row in range(6)]


def test_a_store_travels_as_its_path(texts, labels, tokenizer):
    store = tokenise(texts, labels, tokenizer, LENGTH)
    store.ids, store.offsets  # noqa: B018
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    assert rows_of(pickle.loads(pickled)) == rows_of(store)


def test_a_view_shows_its_rows_in_its_order(texts, labels, tokenizer):
    store = tokenise(texts, labels, tokenizer, LENGTH)
    view = Examples(store, np.array([7, 3, 5]))
    assert [view.tokens(i).tolist() for i in range(3)] == [rows_of(store)[row] for row in (7, 3, 5)]
    assert view.labels.tolist() == labels[[7, 3, 5]].tolist()
    assert view.lengths.tolist() == [len(rows_of(store)[row]) for row in (7, 3, 5)]


def test_the_digest_minds_order(texts, labels, tokenizer):
    store = tokenise(texts, labels, tokenizer, LENGTH)
    one, other = Examples(store, np.array([7, 3, 5])), Examples(store, np.array([3, 5, 7]))
    assert one.digest() != other.digest()
    assert one.digest() == Examples(store, np.array([7, 3, 5])).digest()


def test_parts_join_in_order_and_keep_features_only_where_all_have_some(texts, labels, tokenizer):
    store = tokenise(texts, labels, tokenizer, LENGTH)
    one = Examples(store, np.array([1, 2]), np.zeros((2, 3), np.float32))
    other = Examples(store, np.array([5]), np.ones((1, 3), np.float32))
    joined = Examples.concatenate([one, other])
    assert joined.rows.tolist() == [1, 2, 5]
    assert joined.features.tolist() == [[0.0] * 3, [0.0] * 3, [1.0] * 3]
    assert Examples.concatenate([one, Examples(store, np.array([5]))]).features is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_of_a_text_of_any_length_only_so_much_is_read_and_others_are_read_whole(side, texts, tiny):
    tokenizer = load_tokenizer(tiny("bert"))
    tokenizer.truncation_side = side
    whole = " ".join(texts)
    whole = whole * (8192 // len(whole) + 1)
    store = tokenise([whole, whole * 100, texts[0]], None, tokenizer, LENGTH)
    end = slice(-4096, None) if side == "left" else slice(4096)
    read = [whole[end], (whole * 100)[end], texts[0]]
    assert rows_of(store) == tokenizer(read, truncation=True, max_length=LENGTH)["input_ids"]
    assert [beginning(text, tokenizer, LENGTH) for text in read] == read
    # Cut where it cannot matter: the tokens are those of the whole text.
    assert (
        rows_of(store)
        == tokenizer([whole, whole * 100, texts[0]], truncation=True, max_length=LENGTH)[
            "input_ids"
        ]
    )
    assert len(beginning(whole * 100, tokenizer, 512)) == 64 * 512
