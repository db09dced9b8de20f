"""Spans marked in texts: planned, trained with noise, counted, asked about and exported."""

import json
import random
import re

import numpy as np
import pytest
import torch

from umbel.errors import JobError, MessageError
from umbel.learning import marked_texts
from umbel.learning.counts import counting
from umbel.learning.loading import load_learner
from umbel.learning.marked_texts import Unit, decoded, tagged, units_of
from umbel.learning.metrics import counts_of
from umbel.learning.predict import Predictor
from umbel.learning.probing.probe import probe
from umbel.learning.span_counts import MOST_SPANS, Compared, SpanCounts, cells_of
from umbel.learning.spans import Marked, Span, marked
from umbel.learning.tasks import task_for
from umbel.learning.words import words_of
from umbel.planning.noise import change_of
from umbel.privacy.noise.counts_noise import GROUP_COUNTS
from umbel.reports.predictions import Asked, prediction_line, predictions
from umbel.simulations.engine import Options, simulate
from umbel.simulations.rehearsal import rehearse
from umbel.tasks.spec import spec_of

TASK = "token-classification"
LABELS = ["DRUG", "NAME"]
NOISED = {"epsilon": 200.0, "delta": 1e-3, "limit": 1000.0}
NAMES = ("Ann Li", "Bob", "Ola Berg", "Eve O'Hara")
DRUGS = ("aspirin", "vitamin-c", "ibuprofen")


def letters(count, seed):
    """Letters in which names and drugs are marked."""
    draw = random.Random(seed)
    for number in range(count):
        text, spans = "", []
        for word in (f"Day {number}:", "NAME", "took", "DRUG", "with", "NAME", "and", "tea."):
            text += " " if text else ""
            if word in LABELS:
                said = draw.choice(NAMES if word == "NAME" else DRUGS)
                spans.append({"start": len(text), "end": len(text) + len(said), "label": word})
                word = said
            text += word
        yield {
            "text": text,
            "label": spans,
            "site": "abc"[number % 3],
            "patient": f"p{number // 6}",
        }


@pytest.fixture
def spanned(job_of, tmp_path):
    data = tmp_path / "letters.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in letters(240, 1)))

    def build(adapter="full", base="bert", **sections):
        data_section = {"path": str(data), "labels": LABELS} | sections.pop("data", {})
        model = {"adapter": adapter, "max_length": 48} | sections.pop("model", {})
        return job_of(base, task=TASK, data=data_section, model=model, **sections)

    return build


def strict_entities(tags):
    """Entities by the definition of IOB2: a B, and all I of its type that follow it."""
    found, at = set(), 0
    while at < len(tags):
        end = at + 1
        if tags[at].startswith("B-"):
            while end < len(tags) and tags[end] == f"I-{tags[at][2:]}":
                end += 1
            found.add((at, end - 1, tags[at][2:]))
        at = end
    return found


def test_counts_are_those_of_the_definition():
    draw = random.Random(3)
    names = spec_of(TASK).output_names(LABELS)
    assert names == ["O", "B-DRUG", "I-DRUG", "B-NAME", "I-NAME"]
    total, expected = SpanCounts.zero(2), {name: [0, 0, 0] for name in LABELS}
    for _ in range(300):
        true, found = ([draw.randrange(5) for _ in range(12)] for _ in range(2))
        found = [t if draw.random() < 0.6 else f for t, f in zip(true, found, strict=True)]
        total += SpanCounts.of_record(2, Compared(decoded(true), decoded(found), []), 1.0, 12)
        right, said = (strict_entities([names[tag] for tag in tags]) for tags in (true, found))
        for what, group in enumerate((right & said, said - right, right - said)):
            for _, _, label in group:
                expected[label][what] += 1
    figures = total.metrics(LABELS)
    for label, (right, false, missed) in expected.items():
        of = figures["per_class"][label]
        assert (of["right"], of["false"], of["missed"]) == (right, false, missed)
        assert of["f1"] == pytest.approx(2 * right / (2 * right + false + missed))
    right, false, missed = map(sum, zip(*expected.values(), strict=True))
    assert min(right, false, missed) > 50
    assert figures["f1"] == pytest.approx(2 * right / (2 * right + false + missed))
    assert figures["precision"] == pytest.approx(right / (right + false))
    assert figures["recall"] == pytest.approx(right / (right + missed))
    assert SpanCounts.from_list(total.to_list()).metrics(LABELS) == figures
    numbers = total.to_list()
    numbers[-3] = total.examples + 1
    with pytest.raises(MessageError, match="cannot be right"):
        SpanCounts.from_list(numbers)


def test_no_record_adds_more_to_private_counts_than_its_noise_hides(spanned):
    job = spanned()
    assert job.kind.adds == 1 + MOST_SPANS
    assert change_of(job).cells_squared == job.kind.adds**2
    grouped = spanned(
        privacy={"unit": "group"}, data={"group_column": "patient"}, training={"batch_size": 4}
    )
    assert change_of(grouped).cells_squared == (GROUP_COUNTS * job.kind.adds) ** 2
    many = Compared([(at, at, 1) for at in range(40)], [(at, at, 0) for at in range(40)], [1] * 9)
    assert cells_of(2, many).sum() == job.kind.adds
    assert cells_of(2, many)[0] == 1

    class Greedy:
        """A task that adds as much as it likes."""

        def losses(self, logits, batch):
            return torch.zeros(len(logits))

        def sums(self, logits, batch):
            return torch.zeros(len(logits), 1)

        def cells(self, logits, batch):
            return np.full((len(logits), 8), 1000)

    counts = counting(job, Greedy()).counts(torch.zeros(3, 2), {})
    assert counts.cells.sum() == 3 * job.kind.adds


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([(0, 0), (0, 3), (3, 6), (7, 9)], [(1, 0, 6), (3, 7, 9)]),
        ([(0, 3), (3, 7), (7, 9)], [(0, 0, 6), (2, 7, 9)]),
        ([(0, 9)], [(0, 0, 9)]),
        ([(0, 3)], [(0, 0, 6)]),
    ],
    ids=["pieces", "with the blank", "one token of two words", "cut"],
)
def test_a_word_is_tagged_at_its_first_token(tokens, expected):
    assert units_of("Hidden on", tokens) == expected


def test_what_lies_beyond_the_longest_row_is_missed(spanned):
    job = spanned()
    learner = load_learner(job, 2)
    words = ["Ann", *["and"] * 60, "Bob"]
    text = " ".join(words)
    record = Marked(text, (Span(0, 3, "NAME"), Span(len(text) - 3, len(text), "NAME"))).record()
    (row,) = learner.inputs.encode([record], 48)
    assert len(row) == 48
    batch = learner.batch_of([row])
    task = task_for(job, 2)
    tags = (batch["targets"] & 0xFFFF) - 2
    right = torch.nn.functional.one_hot(tags.clamp(min=0), 5).float()
    figures = task.counts(right, batch).metrics(LABELS)
    assert figures["per_class"]["NAME"]["right"] == 1
    assert figures["per_class"]["NAME"]["missed"] == 1
    assert figures["exact_match"] == 0


@pytest.mark.parametrize("base", ["bert", "roberta"])
def test_texts_are_independent(spanned, base):
    job = spanned("lora", base)
    learner = load_learner(job, 2)
    task = task_for(job, 2)
    assert probe(learner, task).padding
    rows = learner.inputs.invented([9, 14, 30])
    together, alone = learner.batch_of(rows), learner.batch_of(rows[:1])
    with torch.no_grad():
        first = task.losses(learner.network(together), together)[0]
        assert torch.isclose(first, task.losses(learner.network(alone), alone)[0], atol=1e-5)


def test_spans_are_learned_with_noise(spanned, tmp_path):
    job = spanned(
        privacy=NOISED,
        training={"learning_rate": 0.03, "batch_size": 40, "local_steps": 6},
    )
    run = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True)).path
    result = json.loads((run / "result.json").read_text())
    assert result["exact"]["metrics"]["f1"] > 0.7
    assert result["metrics"].keys() >= {"f1", "precision", "recall", "exact_match", "per_class"}
    card = (run / "adapter" / "README.md").read_text()
    assert 'It marks `"DRUG"`, `"NAME"` in texts.' in card
    text = "Today Bob took aspirin with Ann Li and tea."
    asked = [Asked(f"  {text}"), Asked("")]
    answers = list(predictions(Predictor.load(run), asked, 0))
    first, blank = (json.loads(prediction_line(*answer, True)) for answer in answers)
    assert first["text"] == text
    assert first["spans"]
    for span in first["spans"]:
        assert text[span["start"] : span["end"]] == span["text"]
        assert span["label"] in LABELS
    assert blank["no_answer"] == "no text"
    assert re.match(r"(DRUG|NAME) \d+-\d+ ", prediction_line(*answers[0], False))


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["group", "client", "none"])
def test_spans_are_learned_in_every_unit(spanned, tmp_path, unit):
    more = {"data": {"group_column": "patient"}} if unit == "group" else {}
    counts = {"evaluation": {"counts": "private"}} if unit == "client" else {}
    job = spanned(
        privacy={"unit": "none"} if unit == "none" else NOISED | {"unit": unit},
        training={"learning_rate": 0.02, "batch_size": 20, "local_steps": 4},
        **more,
        **counts,
    )
    run = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True)).path
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    assert metrics["f1"] is None or 0 <= metrics["f1"] <= 1


@pytest.mark.slow
def test_a_rehearsal_with_spans_comes_to_what_a_simulation_comes_to(spanned, tmp_path):
    job = spanned(
        privacy=NOISED,
        training={"rounds": 2, "local_steps": 2, "batch_size": 40},
        encryption={"deadline": 600.0},
        cohort={"deadline": 600.0},
    )
    simulation = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True))
    _, result = rehearse(job, tmp_path / "rehearsal")
    assert result["adapter_sha256"] == simulation.read_json("result.json")["adapter_sha256"]


@pytest.mark.slow
def test_the_code_of_a_card_marks_as_umbel_does(job_of, tiny, cards, tmp_path, texts, python):
    said = [row["text"] for row in letters(5, 7)]
    made = cards.Cards(tmp_path, job_of, [*"abcdefg"])
    made.texts = [*said, *cards.awkward([*said, *texts])]
    for base in ("bert", "roberta"):
        for adapter in ("lora", "full"):
            made.add(
                f"{base} {adapter}", tiny(base), adapter, "own", task=TASK, data={"labels": LABELS}
            )
    outside = made.outside(python)
    marks = 0
    for name in made.predictors:
        assert "error" not in outside[name], outside[name]["error"]
        for found, one in zip(outside[name]["single"], made.inside(name), strict=True):
            spans = [span._asdict() for span in one.spans or ()]
            marks += len(spans)
            assert [{**span, "probability": 0} for span in found] == [
                {**span, "probability": 0} for span in spans
            ]
            assert [span["probability"] for span in found] == pytest.approx(
                [span["probability"] for span in spans], abs=1e-5
            )
    assert marks > 20


def test_a_head_alone_is_refused(spanned):
    with pytest.raises(JobError, match='"head": token-classification has no such part'):
        spanned("head")


def test_private_counts_without_noise_say_what_exact_ones_say():
    true = [Compared([(0, 1, 0), (3, 3, 1)], [(0, 1, 0), (2, 3, 1)], []), Compared([], [], [1])]
    exact, cells = SpanCounts.zero(2), np.zeros(8, np.int64)
    for one in true:
        exact += SpanCounts.of_record(2, one, 0.5, 4)
        cells += cells_of(2, one)
    noised = counts_of(spec_of(TASK)).of_noised(cells, [1.0], 1, LABELS)
    figures = exact.metrics(LABELS)
    for key in ("f1", "precision", "recall", "exact_match", "examples"):
        assert noised[key] == figures[key]
    assert noised["per_class"]["NAME"] == figures["per_class"]["NAME"]
    assert SpanCounts.of_noised(-cells, [-1.0], 1, LABELS)["f1"] is None


def test_a_record_reads_back():
    one = Marked("Ann 李 saw", (Span(0, 3, "NAME"),))
    assert marked(one.record()) == one


def test_weights_that_leave_every_tag_to_rounding_are_refused(spanned):
    from umbel.learning.probing.received import ReceivedWeights, _tied

    job = spanned(privacy=NOISED)
    learner = load_learner(job, 2)
    received = ReceivedWeights(learner, task_for(job, 2))
    assert received.objection(learner.initial) == ""
    tied = dict(learner.initial)
    (name,) = (name for name in tied if name.endswith("classifier.weight"))
    weight, bias = np.zeros_like(tied[name]), np.zeros(5, np.float32)
    weight[0], weight[1], bias[2:] = (
        5e3,
        -5e3,
        -1e4,
    )  # outputs of a LayerNorm sum to zero, but for rounding
    tied |= {name: weight, name.replace("weight", "bias"): bias}
    assert "rounding" in received.objection(tied)
    said = torch.zeros(6, 5)
    said[:, 0], apart = 1e-7, torch.zeros(6, 5)
    assert _tied({0: said}, {0: apart}) == 1
    assert _tied({0: said + torch.eye(6, 5)}, {0: apart + torch.eye(6, 5)}) == 0


def test_reading_is_planned_by_a_text_that_is_all_spans(spanned):
    inputs = load_learner(spanned(), 2).inputs
    records, scale = inputs.costliest(500)
    assert ([len(marked(record).spans) for record in records], scale) == ([500, 500], 1.0)
    assert all(0 < len(row) <= 48 for row in inputs.encode(records, 48))


def test_of_a_long_text_whose_end_is_read_only_the_end_is_looked_at(monkeypatch):
    looked = []

    def words(*arguments):
        looked.extend(found := words_of(*arguments))
        return found

    monkeypatch.setattr(marked_texts, "words_of", words)
    text = "ab " * 10_000
    # One token without a place, one from within a word, and one of a whole word.
    found = units_of(text, [(29_992, 29_992), (29_995, 29_996), (29_997, 29_999)])
    assert found == [Unit(2, 29_997, 29_999)]
    assert looked == [(29_997, 29_999)]


def test_spans_within_tokens_take_no_longer_than_others():
    """Sixteen signs in a token, each a span of its own, of which no tags can tell."""

    class Looked(list):
        seen = 0

        def __iter__(self):
            for one in super().__iter__():
                Looked.seen += 1
                yield one

        def __getitem__(self, place):
            Looked.seen += 1
            return super().__getitem__(place)

    units = Looked(Unit(n, 16 * n, 16 * n + 16) for n in range(200))
    spans = [Span(n, n + 1, "N") for n in range(16, 3200)]
    tags, missed = tagged(units, spans, ["N"])
    assert (tags, missed) == ([0] + [-1] * 199, [0] * len(spans))
    assert Looked.seen < 4 * (len(units) + len(spans))
