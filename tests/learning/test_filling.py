"""Work up to a public amount: whatever the records are, as much goes through the model."""

import contextlib
import hashlib

import numpy as np
import pytest
import torch

from umbel.client.computing import Computing
from umbel.client.order import Asked
from umbel.client.timing import Most
from umbel.client.work import LocalData, WorkHere, Workplace
from umbel.learning import trainer
from umbel.learning.counts import counting
from umbel.learning.examples import Examples, TokenStore
from umbel.learning.features import with_features
from umbel.learning.filling import NO_LENGTH, NOTHING, Costs, Invented, UpTo
from umbel.learning.invented import invented_texts
from umbel.learning.pace import Pace, measured
from umbel.learning.shapes import shape_of_steps, shape_of_tests
from umbel.learning.steps import PlainRule, PrivateRule, PrivateSteps
from umbel.learning.tasks import task_for
from umbel.learning.trainer import StepRange, train
from umbel.privacy.noise.sizes import Sizes
from umbel.strategies import channels_of
from umbel.wire.requests import Assignment

LONGEST = 24
KINDS = ["lora", "head", "full"]
PRIVACY = {
    "example": {},
    "client": {"privacy": {"unit": "client", "mechanism": "central"}},
}
# What owners may hold: lengths of their texts.
SETS = {
    "usual": [*range(4, 24)] * 2,
    "one long text": [LONGEST, *range(5, 24), *range(4, 24)],
    "more": [*range(4, 24)] * 3,
    "a single one": [10],
    "the longest": [LONGEST] * 40,
}


@pytest.fixture
def made(job_of, learner_of, tmp_path):
    """A learner with its task, and examples of texts of some lengths."""

    def build(adapter, unit="example", **sections):
        model = {**job_of().model.model_dump(exclude={"lora"}), "adapter": adapter}
        if adapter == "lora":
            model["lora"] = {"rank": 2}
        learner = learner_of(job_of(model=model, **PRIVACY[unit], **sections))
        task = task_for(learner.job, 2)

        def examples(lengths, name="texts"):
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            texts = invented_texts(learner.tokenizer, lengths, seed=len(lengths))
            np.save(folder / "ids.npy", np.concatenate([np.zeros(0), *texts]).astype(np.int32))
            ends = np.cumsum([len(text) for text in texts])
            np.save(folder / "offsets.npy", np.concatenate([[0], ends]).astype(np.int64))
            np.save(folder / "labels.npy", (np.arange(len(texts)) % 2).astype(np.int64))
            return Examples(TokenStore(folder), np.arange(len(texts)))

        return learner, task, examples

    return build


def costs(learner, shape, adapter):
    """As if a pass cost what its numbers are: tokens, or rows of features."""
    if adapter == "head":
        return Costs(
            shape.rows, (NO_LENGTH,), (1.0,), 1.0 if shape.fixed else 1 / shape.rows, shape.fixed
        )
    lengths = shape.lengths(learner)
    whole = tuple(length / lengths[-1] for length in lengths)
    return Costs(
        shape.rows, tuple(lengths), whole, 1.0 if shape.fixed else 1 / shape.rows, shape.fixed
    )


@contextlib.contextmanager
def counted(learner, on_features, falls=frozenset()):
    """How many tokens or rows go through the model; it falls over a text of a length that `falls`."""
    found = [0]
    network = learner.network
    module = network.head if on_features else network.backbone.get_input_embeddings()

    def look(_, inputs):
        found[0] += len(inputs[0]) if on_features else inputs[0].numel()
        if not on_features and falls & {tuple(row.tolist()) for row in inputs[0]}:
            raise RuntimeError("this one cannot be read")

    hook = module.register_forward_pre_hook(look)
    try:
        yield found
    finally:
        hook.remove()


def workplace(learner, task, data, pace):
    return WorkHere("mary", Workplace(learner, task), LocalData(data, data, Sizes(100)), pace)


def pace_of(learner, task, adapter):
    features, counts = adapter == "head", counting(learner.job, task)
    return Pace(
        0, 0, 0, 0, 0, 0,
        training=costs(learner, shape_of_steps(learner, on_features=features), adapter),
        testing=costs(learner, shape_of_tests(learner, counts, on_features=features), adapter),
    )  # fmt: skip


def steps(rate=0.3):
    return PrivateSteps(rate, 12.0, 1.0, 1.0, hashlib.sha256(b"steps").digest())


def out_of_memory(rule):
    raise MemoryError


def unit(shape):
    """Numbers in a pass that costs 1."""
    return shape.rows * (1 if shape.lengths == (NO_LENGTH,) else shape.lengths[-1])


@pytest.mark.parametrize("privacy", PRIVACY)
@pytest.mark.parametrize("adapter", KINDS)
def test_as_much_goes_through_the_model_whatever_the_records_are(adapter, privacy, made):
    learner, task, examples = made(adapter, privacy)
    pace = pace_of(learner, task, adapter)
    private = steps() if privacy == "example" else None
    for side, fill in (("train", 70), ("test", 90)):
        of = pace.training if side == "train" else pace.testing
        through = {}
        for name, lengths in SETS.items():
            work = workplace(learner, task, examples(lengths, name), pace)
            work.prepare()
            with counted(learner, adapter == "head") as found:
                if side == "train":
                    work.trained(learner.job, 1, learner.initial, private, fill=fill)
                else:
                    work.tested(learner.job, learner.initial, fill=fill)
            through[name] = found[0] / unit(of)
        rounds = learner.job.training.local_steps if side == "train" else 1
        public, least = of.most(fill, rounds), of.whole[0] + 1e-9
        assert all(abs(spent - public) <= least for spent in through.values()), through


def test_without_a_reason_nothing_is_filled(made):
    learner, task, examples = made("lora")
    work = workplace(learner, task, examples(SETS["usual"]), pace_of(learner, task, "lora"))
    with counted(learner, on_features=False) as found:
        work.trained(learner.job, 1, learner.initial, steps(1.0))
    assert 0 < found[0] < 2 * 40 * 2 * LONGEST


def test_more_than_was_planned_takes_a_whole_multiple(made, caplog):
    learner, task, examples = made("lora")
    pace = pace_of(learner, task, "lora")
    work = workplace(learner, task, examples([LONGEST] * 200), pace)
    with counted(learner, on_features=False) as found:
        work.trained(learner.job, 1, learner.initial, steps(1.0), fill=10)
    public = pace.training.most(10, learner.job.training.local_steps)
    spent = found[0] / unit(pace.training) / public
    assert spent > 1.5
    assert abs(spent - round(spent)) <= pace.training.whole[0] / public
    assert "learns that it took long" in caplog.text


@pytest.mark.parametrize("privacy", PRIVACY)
def test_a_record_that_the_model_fails_on_changes_nothing_of_it(privacy, made):
    """Its pass and those of the records beside it, one by one, are part of the same amount."""
    learner, task, examples = made("lora", privacy)
    pace = pace_of(learner, task, "lora")
    data = examples(SETS["usual"])
    bad = padded(learner, data, 7)
    through = []
    for falls in (frozenset(), bad):
        work = workplace(learner, task, data, pace)
        with counted(learner, on_features=False, falls=falls) as found:
            work.tested(learner.job, learner.initial, fill=200)
        through.append(found[0] / unit(pace.testing))
    assert abs(through[0] - through[1]) <= 2 * pace.testing.whole[0]


def padded(learner, data, index):
    """A text as it goes through the model, at every length."""
    tokens = data.tokens(index).tolist()
    pad = learner.tokenizer.pad_token_id
    return {tuple(tokens + [pad] * n) for n in range(LONGEST - len(tokens) + 1)}


def test_steps_that_failed_count_towards_those_that_take_their_place(made):
    """So that an answer without records leaves when one with them would have."""
    learner, task, examples = made("lora")
    pace = pace_of(learner, task, "lora")
    work = workplace(learner, task, examples(SETS["the longest"]), pace)
    private = steps(1.0)
    with counted(learner, on_features=False) as found:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PrivateRule, "step", out_of_memory)
            with pytest.raises(MemoryError):
                work.trained(learner.job, 1, learner.initial, private, fill=200)
        before = found[0]
        work.trained(learner.job, 1, learner.initial, private, records=False, fill=200)
    assert 0 < before < found[0]
    public = pace.training.most(200, learner.job.training.local_steps)
    assert abs(public - found[0] / unit(pace.training)) <= pace.training.whole[0] + 1e-9


def answer(learner, work, private, most, **kinds):
    """An owner's answer, whatever fails."""
    assignment = Assignment("0.1.0", "run", learner.job.to_json(), 1, 0, 3)
    computing = Computing("mary", work, None)
    channels = channels_of(learner.job.strategy, work.shapes, 1)
    asked = Asked(learner.job, assignment, learner.initial, local=None, channels=channels, **kinds)
    return computing.computed(asked, private, most)


@pytest.mark.parametrize("privacy", PRIVACY)
def test_what_fails_altogether_costs_what_anything_costs(privacy, made, monkeypatch):
    learner, task, examples = made("lora", privacy)
    pace = pace_of(learner, task, "lora")
    work = workplace(learner, task, examples(SETS["usual"]), pace)
    private = steps(1.0) if privacy == "example" else None
    tried = []

    def out_of_memory_once(rule):
        tried.append(rule)
        if len(tried) == 1:
            raise MemoryError
        return True

    monkeypatch.setattr(PrivateRule, "step", out_of_memory_once)
    monkeypatch.setattr(PlainRule, "step", out_of_memory_once)
    monkeypatch.setattr(WorkHere, "_examples", no_features("test", WorkHere._examples))
    for kinds in ({"train": True, "test": False}, {"train": False, "test": True}):
        with counted(learner, on_features=False) as found:
            answer(learner, work, private, Most(300, 300), **kinds)
        of = pace.training if kinds["train"] else pace.testing
        public = of.most(300, learner.job.training.local_steps if kinds["train"] else 1)
        assert abs(public - found[0] / unit(of)) <= of.whole[0] + 1e-9
    assert len(tried) > 1


@pytest.mark.parametrize("adapter", ["lora", "head"])
def test_whether_a_clients_training_diverged_is_not_told_by_its_time(adapter, made):
    """Without noise in the steps it may be one record's affair."""
    learner, task, examples = made(adapter, "client")
    pace = pace_of(learner, task, adapter)
    through, taken = [], []
    for sound in (True, False):
        work = workplace(learner, task, examples(SETS["usual"]), pace)
        work.prepare()
        with pytest.MonkeyPatch.context() as patch, counted(learner, adapter == "head") as found:
            watch = watched(torch.optim.AdamW.step, taken)
            patch.setattr("torch.optim.AdamW.step", watch)
            if not sound:
                patch.setattr(trainer, "learning_rate", lambda *_: float("nan"))
            outcome = answer(learner, work, None, Most(300, 300), train=True, test=False).outcome
        assert not outcome.diverged
        assert any(array.any() for array in outcome.update.values()) == sound
        through.append(found[0] / unit(pace.training))
        assert len(taken) == learner.job.training.local_steps
        taken.clear()
    least, features = pace.training.whole[0], adapter == "head"
    assert abs(through[0] - through[1]) <= (1.3 if features else least) + 1e-9


def no_features(side, examples):
    """The examples of one side cannot be had."""

    def of(work, asked):
        if asked == side:
            raise OSError("the disk is full")
        return examples(work, asked)

    return of


def test_an_owner_of_no_record_takes_as_many_steps_as_any_other(made, monkeypatch):
    learner, task, examples = made("full", "client")
    pace = pace_of(learner, task, "full")
    taken = []
    monkeypatch.setattr("torch.optim.AdamW.step", watched(torch.optim.AdamW.step, taken))
    for lengths in ([], SETS["usual"]):
        work = workplace(learner, task, examples(lengths, f"of {len(lengths)}"), pace)
        outcome = work.trained(learner.job, 1, learner.initial, None, fill=60)
        assert any(array.any() for array in outcome.update.values()) == bool(lengths)
        assert len(taken) == learner.job.training.local_steps
        taken.clear()


def watched(step, taken):
    def of(optimizer, *arguments, **named):
        taken.append(optimizer)
        return step(optimizer, *arguments, **named)

    return of


def test_a_head_reads_features_also_of_an_owner_that_has_none(made):
    """Of no record, or of records that the base model fails on: the tokens never go through in a round."""
    learner, task, examples = made("head")
    pace = pace_of(learner, task, "head")
    data = examples(SETS["usual"])
    through = []
    for held, fails in ((data, False), (data, True), (data.none(), False)):
        work = workplace(learner, task, held, pace)
        falls = {t for n in range(len(data)) for t in padded(learner, data, n)} if fails else set()
        with counted(learner, on_features=False, falls=frozenset(falls)):
            work.prepare()
        with counted(learner, on_features=False) as tokens, counted(learner, True) as rows:
            work.trained(learner.job, 1, learner.initial, steps(), fill=900)
            work.tested(learner.job, learner.initial, fill=900)
        assert tokens[0] <= LONGEST  # an invented one, once, to see how many features there are
        through.append(rows[0])
    assert max(through) - min(through) <= pace.training.rows + pace.testing.rows


def test_a_record_that_fails_is_not_tried_in_every_step(made):
    learner, task, examples = made("lora", training={"local_steps": 6})
    data = examples(SETS["the longest"])
    through = []
    shape_of_steps(learner, on_features=False)  # tries passes, once
    for falls in (set(), padded(learner, data, 7)):
        work = workplace(learner, task, data, None)
        with counted(learner, on_features=False, falls=frozenset(falls)) as found:
            work.trained(learner.job, 1, learner.initial, steps(1.0))
        through.append(found[0] / (8 * LONGEST))
    assert 0 < through[1] - through[0] <= 9


def test_the_mean_tells_nothing_of_the_last_bit_that_is_left():
    costs, spent = Costs(1, (NO_LENGTH,), (1.0,), 1.0, fixed=False), []
    for _ in range(2000):
        filling = UpTo(costs, Batches(), 10.0, done=0.25)
        filling.fill(lambda make: make())
        spent.append(filling.done)
    assert set(spent) == {9.25, 10.25}
    assert np.mean(spent) == pytest.approx(10.0, abs=0.1)


class Batches:
    """Of nothing."""

    def batch(self, length):
        return {}


@pytest.mark.parametrize("adapter", ["lora", "head"])
def test_what_is_computed_stays_the_same_to_the_last_bit(adapter, made, examples_of):
    """Dropout, batches and noise are drawn as if nothing were filled, also in the next round."""
    learner, task, _ = made(adapter)
    examples = with_features(learner, examples_of(learner))
    shape = shape_of_steps(learner, on_features=adapter == "head")
    invented = Invented(
        learner, shape.rows, costs(learner, shape, adapter).lengths, on_features=adapter == "head"
    )

    def found(fills, private):
        lines = []
        for round_ in range(2):
            filling = UpTo(costs(learner, shape, adapter), invented, 6.0) if fills else NOTHING
            outcome = train(
                learner, task, learner.initial, examples, StepRange(round_, 2, 4),
                seed=5, who="mary", private=private, filling=filling,
            )  # fmt: skip
            lines.append(([a.tobytes() for a in outcome.update.values()], outcome.loss))
            counts = trainer.test(learner, task, learner.initial, examples)
            lines.append(counts.to_list())
        return lines

    for private in (steps(), None):
        assert found(True, private) == found(False, private)


@pytest.mark.parametrize("adapter", ["lora", "head"])
def test_longer_passes_are_measured_to_cost_more_and_the_longest_one(adapter, made):
    learner, task, _ = made(adapter)
    pace = measured(learner, task)
    for found in (pace.training, pace.testing):
        assert list(found.whole) == sorted(found.whole)
        assert found.whole[-1] == 1.0
        assert min(found.whole) > 0
        assert 0 < found.single <= 1
        assert len(found.lengths) == len(found.whole)
    assert (pace.training.lengths == (NO_LENGTH,)) == (adapter == "head")
