"""Features of a frozen model: computed once, kept as they are done, the same bits after any stop."""

import numpy as np
import pytest

from umbel.learning import features
from umbel.learning.features import kept_features, with_features
from umbel.learning.progress import listening

ROWS = np.arange(100)


@pytest.fixture
def learner(job_of, learner_of, monkeypatch):
    monkeypatch.setattr(features, "_PIECE", 16)
    return learner_of(job_of(model={"adapter": "head", "max_length": 64}))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    def use(name):
        monkeypatch.setenv("UMBEL_CACHE", str(tmp_path / name))

    return use


def rows_through(learner, work):
    """How many rows go through the base model in `work`, and what comes of it."""
    found = [0]
    module = learner.network.backbone.get_input_embeddings()
    handle = module.register_forward_hook(
        lambda module, inputs, output: found.__setitem__(0, found[0] + len(inputs[0]))
    )
    try:
        result = work()
    finally:
        handle.remove()
    return found[0], result


def stopping(after):
    """Somebody who presses Ctrl-C once `after` records are done."""
    done = [0]

    def heard(count):
        done[0] += count
        if done[0] >= after:
            raise KeyboardInterrupt

    return heard


def test_who_stops_while_features_are_computed_goes_on_from_there_to_the_same_bits(
    learner, examples_of, cache
):
    examples = examples_of(learner, rows=ROWS)
    cache("whole")
    all_rows, whole = rows_through(learner, lambda: with_features(learner, examples).features)
    cache("parts")
    with pytest.raises(KeyboardInterrupt), listening(stopping(after=60)):
        with_features(learner, examples)
    done = []
    with listening(done.append):
        rest, again = rows_through(learner, lambda: with_features(learner, examples).features)
    assert np.array_equal(again, whole)
    assert 0 < rest < 0.7 * all_rows
    assert sum(done) == len(ROWS)
    folder = kept_features(learner, examples).parent
    assert [path.suffix for path in folder.iterdir()] == [".npy"], "pieces are gone"


def test_a_piece_that_cannot_be_read_is_computed_again(learner, examples_of, cache):
    """Another process deletes pieces once all is kept, perhaps between a look at one and its reading."""
    examples = examples_of(learner, rows=ROWS)
    cache("whole")
    whole = with_features(learner, examples).features
    cache("parts")
    with pytest.raises(KeyboardInterrupt), listening(stopping(after=60)):
        with_features(learner, examples)
    pieces = sorted(kept_features(learner, examples).parent.glob("*.piece-*"))
    assert len(pieces) > 1
    for piece, damage in zip(pieces, ["", "cut"], strict=False):
        piece.write_bytes(piece.read_bytes()[: 200 if damage else 0])
    assert np.array_equal(with_features(learner, examples).features, whole)


def test_a_piece_that_has_a_record_without_features_is_not_kept(
    learner, examples_of, cache, monkeypatch
):
    """A failure may pass; another time all of the piece is tried."""
    examples = examples_of(learner, rows=ROWS)
    cache("failing")
    bad = next(iter(features.Passes(learner, examples, 1).chunks(alone=True)))[0]
    lost = set(map(int, np.asarray(examples.tokens(int(bad)))))
    module = learner.network.backbone.get_input_embeddings()

    def fall(module, inputs):
        if any(lost <= set(row.tolist()) for row in inputs[0]):
            raise RuntimeError("a text that the model cannot take")

    handle = module.register_forward_pre_hook(fall)
    try:
        found = with_features(learner, examples).features
    finally:
        handle.remove()
    assert np.isnan(found[bad]).all()
    assert np.isfinite(found).any()
    assert np.isfinite(with_features(learner, examples).features).all()


def test_of_few_records_no_piece_is_written(learner, examples_of, cache):
    examples = examples_of(learner, rows=ROWS[:12])
    cache("few")
    with pytest.raises(KeyboardInterrupt), listening(stopping(after=len(examples))):
        with_features(learner, examples)
    folder = kept_features(learner, examples).parent
    assert not list(folder.glob("*.piece-*"))
