"""What may be asked of an owner's data is the owner's to say: the attacks that jobs could make, and can not.

Each attack is made twice: on the owner's intake, and on the rule of before, on which it succeeds.
"""

import logging

import pyarrow as pa
import pytest
from pyarrow import parquet

from umbel.client.data import DataSource
from umbel.client.home import Home
from umbel.client.intake import Intake
from umbel.client.left_out import LeftOut
from umbel.client.marks import Marks
from umbel.consortium.warrants import sign_job
from umbel.errors import DataError, PlanRefused
from umbel.flower import stamp, take_server_identity
from umbel.learning.data import load_corpus
from umbel.learning.split import fingerprint, split_rows, split_secret
from umbel.privacy.accounting.accountant import MechanismEvent
from umbel.privacy.ledger.chain import SIZE_RUN
from umbel.privacy.ledger.ledger import Ledger
from umbel.simulations.rehearsal import set_up
from umbel.wire.requests import ASSIGNMENT, PREPARE, REFUSED, Assignment, Readiness

TARGET = "the patient in bed four has what nobody else here has"


@pytest.fixture
def owner(open_job_of, sound, moved_clock, tmp_path):
    """An owner with data of its own, and a way to send it what an operator signs."""
    stage = set_up(open_job_of(), tmp_path)
    home = stage.owners[0]

    class Owner:
        job = stage.job

        def __init__(self):
            self.home = home
            self.open()
            self.rows = parquet.read_table(home.data).to_pylist()

        def open(self):
            self.intake = Intake(self.home, bench=sound, clock=moved_clock)

        def hold(self, rows):
            parquet.write_table(pa.Table.from_pylist(rows), home.data)

        def ask(self, run="run", **data):
            from flwr.app import Message, RecordDict

            take_server_identity(1)
            spec = self.job.data.model_copy(update=data)
            job = self.job.model_copy(update={"data": spec}).to_json()
            signature = sign_job(stage.consortium.operator, stage.consortium.card.id, run, job)
            said = Assignment(
                "0.1.0", run, job, 0, 0, self.job.training.rounds, signature=signature
            )
            content = RecordDict({ASSIGNMENT: said.to_record()})
            message = Message(content, dst_node_id=2, message_type=PREPARE)
            stamp(message)
            return self.intake.handle(message)

        def told(self, **data):
            """All that an operator hears: the whole answer, or the whole error."""
            reply = self.ask(**data)
            if reply.has_error():
                return reply.error.code, reply.error.reason
            return {name: dict(record) for name, record in reply.content.config_records.items()}

    return Owner()


def neighbours(rows):
    """Data sets that differ by one record, in every way that a record can."""
    text, label = "text", "label"
    first = rows[0]
    extra = {**first, text: TARGET}
    return {
        "one more": [*rows, extra],
        "one less": rows[1:],
        "a longer text": [{**first, text: first[text] * 50}, *rows[1:]],
        "another label": [
            {**first, label: {"negative": "positive"}.get(first[label], "negative")},
            *rows[1:],
        ],
        "a label that was never declared": [{**first, label: "unheard of"}, *rows[1:]],
        "a label with a gap": [{**first, label: None}, *rows[1:]],
        "an empty text": [{**first, text: "  "}, *rows[1:]],
        "one in another order": [*rows[1:], first],
    }


@pytest.mark.slow
def test_neighbours_give_the_same_answer_to_whatever_is_asked(owner):
    jobs = [
        {},
        {"labels": ["negative", "unheard of"]},
        {"text_column": "label", "label_column": "text", "test_fraction": 0.9, "limit": 1},
    ]
    before = [owner.told(**job) for job in jobs]
    assert any(isinstance(answer, dict) for answer in before)
    assert any(isinstance(answer, tuple) for answer in before)
    for name, rows in neighbours(owner.rows).items():
        owner.hold(rows)
        assert [owner.told(**job) for job in jobs] == before, name


@pytest.mark.slow
def test_a_record_is_not_found_by_a_split_that_the_job_chooses(owner):
    """The rule of before: job's seed and fraction say what is held out, and exact counts are told."""
    with_it = [*owner.rows, {**owner.rows[0], "text": TARGET}]

    def told_before(rows, seed, fraction):
        owner.hold(rows)
        spec = owner.job.data.model_copy(update={"path": str(owner.home.data)})
        _, test = split_rows(load_corpus(spec, owner.job.task), 1 - fraction, split_secret(seed))
        return len(test)

    fraction = 0.02
    seed = next(
        seed
        for seed in range(2000)
        if (told_before(with_it, seed, fraction), told_before(owner.rows, seed, fraction)) == (1, 0)
    )
    job = owner.job.model_copy(update={"seed": seed})
    owner.job = job
    answers = []
    for rows in (with_it, owner.rows):
        owner.hold(rows)
        answers.append(owner.told(test_fraction=fraction))
    assert answers[0] == answers[1]
    # Nor does the job choose who is held out: the owner's own secret does.
    source = owner.home.source
    sides = [source.split(source.corpus())[1].tolist() for _ in range(2)]
    assert sides[0] == sides[1] != []


@pytest.mark.slow
def test_the_same_records_have_one_budget_whatever_columns_and_labels_a_job_names(owner):
    charge = MechanismEvent(1.0, 0.5, 40)
    rows = [{**row, "note": row["text"] + "."} for row in owner.rows]
    owner.hold(rows)
    questions = ({}, {"text_column": "note"}, {"group_column": "note"})
    path = owner.home.path.parent / "before.sqlite"
    for number, question in enumerate(questions):
        # The rule of before: what the named column holds is the data set.
        spec = owner.job.data.model_copy(update={"path": str(owner.home.data), **question})
        named = fingerprint(load_corpus(spec, owner.job.task).texts, None)
        with Ledger(path) as before:
            before.reserve(named, charge, job="j", key=f"{number}/1/0", delta=1e-3, limit=30.0)
    with Ledger(path) as before:
        assert len({entry.dataset for entry in before.entries()}) == 2
    name = owner.home.account.name
    for number, question in enumerate(questions):
        reply = owner.ask(f"run-{number}", **question)
        assert not reply.has_error()
        assert owner.home.source.account == name
    with Ledger(owner.home.ledger) as ledger:
        assert {entry.dataset for entry in ledger.entries()} == {name}
        [size] = [entry for entry in ledger.entries() if entry.run == SIZE_RUN]
        assert size.dataset == name


@pytest.mark.slow
def test_no_refusal_tells_whether_a_record_has_a_label(owner):
    asked = ["negative", "positive", "unheard of"]
    with_it = [*owner.rows, {**owner.rows[0], "label": "unheard of"}]
    found = []
    for rows in (owner.rows, with_it):
        owner.hold(rows)
        spec = owner.job.data.model_copy(update={"path": str(owner.home.data)})
        try:  # the rule of before
            load_corpus(spec, owner.job.task)
            found.append("answered")
        except DataError as error:
            found.append(str(error))
    assert found[0] == "answered"
    assert "unheard of" in found[1]
    told = []
    for rows in (owner.rows, with_it):
        owner.hold(rows)
        told.append([owner.told(labels=labels) for labels in (asked, asked[:1], asked[:2])])
    assert told[0] == told[1]
    assert told[0][0][0] == told[0][1][0] == REFUSED
    assert (
        'declares the classes "negative", "positive", but the job names "negative"' in told[0][1][1]
    )
    assert isinstance(told[0][2], dict)


def test_classes_in_a_jobs_order_are_the_same_records(owner):
    source = owner.home.source
    one, other = (
        source.corpus(order) for order in (["negative", "positive"], ["positive", "negative"])
    )
    assert one.texts == other.texts
    assert (one.labels == 1 - other.labels).all()


def test_a_job_protects_what_its_owner_says_it_must(owner):
    declared = owner.home.settings.data
    grouped = declared.model_copy(update={"unit": "group", "group_column": "label"})
    of_groups = owner.job.model_copy(
        update={"privacy": owner.job.privacy.model_copy(update={"unit": "group"})}
    )
    with pytest.raises(
        PlanRefused, match='protects groups of records, but the job has .*"example"'
    ):
        grouped.check("st-mary", owner.job)
    with pytest.raises(PlanRefused, match='counts records, but the job has privacy.unit = "group"'):
        declared.check("st-mary", of_groups)
    grouped.check("st-mary", of_groups)
    language = owner.job.model_copy(update={"task": "causal-lm"})
    declared.check("st-mary", language)
    silent = declared.model_copy(update={"label_column": None, "labels": None})
    with pytest.raises(PlanRefused, match="declares no classes"):
        silent.check("st-mary", owner.job)


@pytest.mark.slow
def test_a_published_size_below_what_the_owner_declared_takes_part_in_no_job(owner):
    told = Readiness.from_record(owner.ask().content["readiness"])
    text = owner.home.settings_file.read_text()
    line = f"smallest_size = {told.size + 1}"
    owner.home.settings_file.write_text(text.replace("smallest_size = 1", line))
    owner.home = Home.open(owner.home.path)
    owner.open()
    reply = owner.ask()
    assert reply.error.code == REFUSED
    assert f"its published size ({told.size:,}) is below {told.size + 1:,}" in reply.error.reason


SPOILT = {
    "notes.csv": b"text,label,more\nfine,a,1\n\xff\xfe,b,1\ntoo,few\nill,b,1\n",
    "notes.tsv": b"text\tlabel\nfine\ta\nbad\tb\textra\nill\tb\n",
    "notes.jsonl": b'{"text": "fine", "label": "a"}\n{"text": \n{"text": ["x", "y"], "label": "a"}\n'
    b'{"text": "\\ud83d", "label": "b"}\n{"text": "x", "label": {"a": 1}}\n'
    b'[1]\n{"text": "ill", "label": "b"}\n',
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_record_that_cannot_be_read_is_left_out_and_only_the_owners_log_says_so(
    owner, tmp_path, name, caplog
):
    (tmp_path / name).write_bytes(SPOILT[name])
    declared = owner.home.settings.data.model_copy(update={"labels": ["a", "b"]})
    marks, left_out = Marks(tmp_path / "m"), LeftOut(tmp_path / "left-out.npy")
    source = DataSource(tmp_path / name, None, declared, "account", bytes(32), marks, left_out)
    with caplog.at_level(logging.WARNING):
        corpus = source.corpus()
    assert corpus.texts == ["fine", "ill"]
    assert corpus.labels.tolist() == [0, 1]
    assert "records left out of the data" in caplog.text
    with pytest.raises(DataError):
        spec = owner.job.data.model_copy(
            update={"path": str(tmp_path / name), "labels": ["a", "b"]}
        )
        load_corpus(spec, owner.job.task)


def test_a_file_without_a_record_that_counts_is_data_of_none(owner):
    owner.hold([{"text": "x", "label": "unheard of"}])
    assert isinstance(owner.told(), dict)
    assert len(owner.home.source.corpus()) == 0


def test_a_link_to_a_file_that_is_gone_is_said_as_one(owner, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    declared = owner.home.settings.data
    marks, left_out = Marks(tmp_path / "m"), LeftOut(tmp_path / "left-out.npy")
    source = DataSource(folder, None, declared, "account", bytes(32), marks, left_out)
    with pytest.raises(DataError, match=r"gone\.csv is a link to a file that is not there"):
        source.stamp()
