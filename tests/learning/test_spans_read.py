"""Texts with spans as files say them: one record, whatever the form; what is wrong is one sentence."""

import csv
import json
from itertools import product

import pyarrow as pa
import pyarrow.parquet
import pytest

from umbel.client.propose import propose
from umbel.client.settings import DataSettings
from umbel.errors import ConsortiumError, DataError, PlanRefused
from umbel.job import DataSpec
from umbel.learning.data import load_corpus
from umbel.learning.spans import Marked, Span, marked, marked_from
from umbel.learning.words import cuts_word, word_around, words_of

TASK = "token-classification"
TEXT = "Dr Ann Li gave B-12 to Zoë."
SPANS = [[3, 9, "NAME"], [15, 19, "DRUG"], [23, 26, "NAME"]]
WORDS = ["Dr", "Ann", "Li", "gave", "B-12", "to", "Zoë."]
OTHER = {"text": "No news.", "label": []}


def corpus_of(path, **spec):
    return load_corpus(DataSpec(path=str(path), **spec), TASK)


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_spans_read_alike_from_every_file(tmp_path):
    objects = [dict(zip(("start", "end", "label"), span, strict=True)) for span in SPANS]
    lines = written(tmp_path / "a.jsonl", {"text": TEXT, "label": SPANS}, OTHER)
    inner = written(tmp_path / "b.jsonl", {"text": f" {TEXT}", "label": []}, OTHER)
    named = written(tmp_path / "c.jsonl", {"text": TEXT, "label": objects}, OTHER)
    table = tmp_path / "d.parquet"
    columns = {"text": [TEXT, OTHER["text"]], "label": pa.array([objects, []])}
    pyarrow.parquet.write_table(pa.table(columns), table)
    quoted = tmp_path / "e.csv"
    said = json.dumps(SPANS, ensure_ascii=False).replace('"', '""')
    quoted.write_text(f'text,label\n"{TEXT}","{said}"\nNo news.,[]\n', encoding="utf-8")
    expected = Marked(TEXT, tuple(Span(*span) for span in SPANS)).record()
    for path in (lines, named, table, quoted):
        found = corpus_of(path)
        assert found.texts == [expected, Marked("No news.", ()).record()]
        assert found.label_names == ("DRUG", "NAME")
        assert found.labels is None
    with pytest.raises(DataError, match="marks no span at all"):
        corpus_of(inner)


SCHEMES = {
    "BIO": ["O", "B-NAME", "I-NAME", "O", "B-DRUG", "O", "B-NAME"],
    "BIOES": ["O", "B-NAME", "E-NAME", "O", "S-DRUG", "O", "S-NAME"],
    "BILOU": ["O", "B-NAME", "L-NAME", "O", "U-DRUG", "O", "U-NAME"],
    "IO": ["O", "I-NAME", "I-NAME", "O", "I-DRUG", "O", "I-NAME"],
    "labels": ["O", "NAME", "NAME", "O", "DRUG", "O", "NAME"],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_words_with_tags_read_alike_in_every_scheme(tmp_path, scheme):
    tags = SCHEMES[scheme]
    lines = written(tmp_path / "a.jsonl", {"tokens": WORDS, "labels": tags})
    conll = tmp_path / "b.conll"
    rows = "".join(f"{word} X {tag}\n" for word, tag in zip(WORDS, tags, strict=True))
    conll.write_text(f"-DOCSTART- -X- O\n\n# site = north\n{rows}\n\n", encoding="utf-8")
    found = corpus_of(lines, text_column="tokens", label_column="labels").texts
    assert marked(found[0]).text == TEXT
    assert [TEXT[start:end] for start, end, _ in marked(found[0]).spans] == [
        "Ann Li",
        "B-12",
        "Zoë.",
    ]
    assert corpus_of(conll).texts == found
    assert corpus_of(conll, text_column="1", label_column="3").texts == found
    assert load_corpus(DataSpec(path=str(conll)), TASK, "site").clients == ["north"]


def test_neighbours_of_one_label_stay_two():
    found = marked_from('["Ann","Bob","Eve"]', '["B-N","B-N","I-N"]', set())
    assert found.spans == (Span(0, 3, "N"), Span(4, 11, "N"))
    assert marked_from('["x","B-cell"]', '["O","B-cell"]', {"B-cell"}).spans[0].label == "B-cell"


class Sliced(str):
    """A text that counts the characters that are cut out of it."""

    cut = 0

    def __getitem__(self, place):
        found = super().__getitem__(place)
        Sliced.cut += len(found)
        return found


@pytest.mark.parametrize("many", [200, 5000])
def test_no_record_takes_longer_by_how_its_spans_lie(monkeypatch, many):
    """Wide ones that overlap: cutting out each took a minute for a megabyte."""
    monkeypatch.setattr(Sliced, "cut", 0)
    text = Sliced("ab " * 10_000)
    with pytest.raises(DataError, match="overlap" if many == 200 else "it has 5,000 spans, but"):
        marked_from(text, json.dumps([[0, len(text) - 1, "N"]] * many), set())
    assert Sliced.cut <= 3 * len(text)


def test_blanks_around_a_span_are_none_of_it():
    found = marked_from("  Ann   Li \n", '[[0, 7, "N"], [6, 12, "M"]]', set())
    assert found == Marked("Ann   Li", (Span(0, 3, "N"), Span(6, 8, "M")))
    with pytest.raises(DataError, match="from 5 to 7 holds no text"):
        marked_from("  Ann   Li ", '[[4, 5, "N"], [5, 7, "M"]]', set())


def test_a_place_within_a_word_is_told_from_the_signs_around_it():
    signs = "a\u00e9_7-. \n\u674e\u304b\u0301"
    for drawn in product(signs, repeat=4):
        text = "".join(drawn)
        words = words_of(text)
        for place in range(len(text) + 1):
            around = [text[start:end] for start, end in words if start < place < end]
            assert cuts_word(text, place) == bool(around)
            assert not around or word_around(text, place) == around[0]
            assert words_of(text, first=place) == [word for word in words if word[0] >= place]


HALVES = {
    "a word": (["a\ud800", "b"], ["B-NAME", "O"]),
    "a label": ("Ann", [[0, 3, "NAME\ud800"]]),
}


@pytest.mark.parametrize("what", HALVES)
def test_half_a_surrogate_pair_spoils_its_own_record_alone(tmp_path, what):
    """Within JSON in a cell it is there only once that is read."""
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for text, marks in (("Ann", [[0, 3, "NAME"]]), HALVES[what]):
            rows.writerow([text if isinstance(text, str) else json.dumps(text), json.dumps(marks)])
    spec = DataSpec(path=str(path), labels=["NAME"])
    found = load_corpus(spec, TASK, declared=True)
    assert (len(found), found.dropped) == (1, {"unreadable": 1})
    assert propose(path, reads="spans").classes == {"NAME": 1}


def test_words_are_cut_by_one_rule():
    text = "Zoë's 5mg, 李明!"
    assert [text[a:b] for a, b in words_of(text)] == ["Zoë", "'", "s", "5mg", ",", "李", "明", "!"]


BAD = {
    "within a word": ("Anna", [[0, 2, "N"]], "'An' begins or ends within a word \\('Anna'\\)"),
    "overlapping": ("Ann Li", [[0, 6, "N"], [4, 6, "N"]], "'Ann Li' and 'Li' overlap"),
    "outside": ("Ann", [[0, 9, "N"]], "from 0 to 9 is empty, or not within its text of 3"),
    "empty": ("Ann", [[1, 1, "N"]], "from 1 to 1 is empty"),
    "blank": ("Ann Li", [[3, 4, "N"]], "holds no text"),
    "unnamed": ("Ann", [[0, 3, None]], "has no label"),
    "too many": (
        "a " * 4097,
        [[2 * n, 2 * n + 1, "N"] for n in range(4097)],
        "it has 4,097 spans, but",
    ),
    "no span": ("Ann", [["0", 3, "N"]], "in place of a span"),
    "no list": ("Ann", "N", "in place of a list of spans or tags"),
    "lengths": (["Ann", "Li"], ["B-N"], "2 words and 1 tag. Give one tag for each word"),
    "no words": ("Ann Li", ["B-N", "I-N"], "2 tags and a text that is no list of words"),
    "empty word": (["Ann", " "], ["O", "O"], "its word 2 is empty"),
    "unknown tag": (["Ann"], ["B-"], "its word 1 has the unknown tag 'B-'"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_a_record_is_said_in_a_sentence(tmp_path, what):
    text, label, sentence = BAD[what]
    good = {"text": TEXT, "label": SPANS}
    path = written(tmp_path / "a.jsonl", good, {"text": text, "label": label})
    with pytest.raises(DataError, match=sentence) as error:
        corpus_of(path)
    assert f"{path}, line 2: " in str(error.value)
    # At an owner it is that record's affair alone.
    spec = DataSpec(path=str(path), labels=["NAME", "DRUG"])
    found = load_corpus(spec, TASK, declared=True)
    assert (len(found), found.dropped) == (1, {"unreadable": 1})


def test_a_label_beyond_the_list_is_an_error_or_at_an_owner_left_out(tmp_path):
    path = written(tmp_path / "a.jsonl", {"text": TEXT, "label": SPANS}, OTHER)
    spec = DataSpec(path=str(path), labels=["NAME"])
    with pytest.raises(DataError, match="'B-12' has the label 'DRUG', which is not in data.labels"):
        load_corpus(spec, TASK)
    found = load_corpus(spec, TASK, declared=True)
    assert (found.texts, found.dropped) == (
        [Marked("No news.", ()).record()],
        {"undeclared label": 1},
    )
    spelled = spec.model_copy(update={"spellings": {"NAME": ["DRUG"]}})
    assert {span.label for span in marked(load_corpus(spelled, TASK).texts[0]).spans} == {"NAME"}


def test_a_line_of_conll_without_a_tag_spoils_its_own_record_alone(tmp_path):
    path = tmp_path / "a.bio"
    path.write_text("Ann B-N\nLi I-N\n\nBob\n\nEve B-N\n")
    with pytest.raises(DataError, match="its line 4 has 1 column, but a word and its tag"):
        corpus_of(path)
    spec = DataSpec(path=str(path), labels=["N"])
    assert len(load_corpus(spec, TASK, declared=True)) == 2


def test_an_owner_declares_spans(tmp_path, open_job_of):
    path = written(tmp_path / "a.jsonl", {"text": TEXT, "label": SPANS}, OTHER)
    written(
        path, {"text": TEXT, "label": SPANS}, OTHER, {"text": "Anna", "label": [[0, 2, "NAME"]]}
    )
    proposal = propose(path, reads="spans")
    assert proposal.declared.labels == ["DRUG", "NAME"]
    assert proposal.classes == {"NAME": 2, "DRUG": 1}
    assert any("line 3: its span 'An'" in why for why, count in proposal.left_out.items() if count)
    conll = tmp_path / "b.iob2"
    conll.write_text("Ann B-NAME\nsaw O\n\nB-12 B-DRUG\n")
    declared = propose(conll).declared
    assert (declared.reads, declared.labels) == ("spans", ["DRUG", "NAME"])
    job = open_job_of(data={"labels": ["NAME", "DRUG"]})
    with pytest.raises(PlanRefused, match=r"declares spans \(reads\).*from texts"):
        declared.check("mary", job)
    declared.check("mary", job.model_copy(update={"task": TASK}))
    with pytest.raises(ConsortiumError, match='reads = "spans" needs a label_column and labels'):
        DataSettings.build({"path": "a", "text_column": "t", "reads": "spans"}, "What is declared")
