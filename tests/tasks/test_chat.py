"""Chat tuning from a file to answers: planned, trained with noise, tested, exported, asked."""

import html
import json
import shutil
import stat

import numpy as np
import pytest

import umbel
from umbel.errors import DataError, ModelError
from umbel.learning.dialogues import SPECIAL, TEMPLATE, TOO_LONG
from umbel.learning.predict import Predictor
from umbel.learning.reading.layout import USUAL
from umbel.reports.page import write_page
from umbel.reports.predictions import prediction_line, predictions, read_texts
from umbel.run.record import RunRecord
from umbel.simulations.engine import Options, simulate
from umbel.simulations.federation import federate
from umbel.simulations.rehearsal import rehearse

CHATML = (
    "{% for m in messages %}<s>{{ m['role'][0] }}:{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>a:{% endif %}"
)
SPEAKERS, WHEN = 8, ("before", "after")


def dialogues(texts):
    """Two or four turns of the reviews, with whom they are of."""
    for number, (one, other) in enumerate(zip(texts[::2], texts[1::2], strict=True)):
        said = [("user", one[:12]), ("assistant", ("yes", other[:9])[number % 2])]
        said += said[::1] if number % 3 == 0 else []
        yield {
            "speaker": f"s{number % SPEAKERS}",
            "messages": [{"role": role, "content": content} for role, content in said],
        }


@pytest.fixture(scope="module")
def talking(tiny, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(tiny("llama"), folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(CHATML)
    rows = "".join(json.dumps(row) + "\n" for row in dialogues(texts))
    (folder / "a.jsonl").write_text(rows)
    return folder


@pytest.fixture(scope="module")
def chat_of(talking, job_of):
    def build(**sections):
        model = {"max_length": 64, **sections.pop("model", {})}
        data = {"path": str(talking / "a.jsonl"), "text_column": "messages", "labels": None}
        sections.setdefault("simulation", {"partition": "iid", "clients": 3})
        data |= sections.pop("data", {})
        return job_of(str(talking / "base"), task="chat", model=model, data=data, **sections)

    return build


@pytest.fixture(scope="module")
def ran(chat_of, tmp_path_factory):
    """A finished private run, tested twice."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    simulate(chat_of(training={"rounds": 1}), Options(folder, workers=1, reproducible=True))
    return folder


def test_a_private_run_counts_answers_and_its_page_and_card_say_so(ran):
    result = json.loads((ran / "result.json").read_text())
    exact = result["exact"]["metrics"]
    assert exact["examples"] > 5
    assert 1 < exact["perplexity"] < 1e5
    assert 0 <= exact["exact_match"] <= 1
    assert "exact_match" in result["metrics"]
    record = RunRecord.read(ran)
    assert record.metric.key == "perplexity"
    assert max(record.epsilon.values()) <= 8
    assert "dialogues like those" in (ran / "adapter" / "README.md").read_text()
    said = json.loads((ran / "answers.json").read_text())["answers"]
    assert len(said) == 3  # one of each owner's
    assert all(one["answer"] and 0 <= one[when]["rouge_l"] <= 1 for one in said for when in WHEN)


def test_the_page_to_send_around_quotes_no_record_and_what_quotes_them_is_the_users_alone(
    ran, talking
):
    said = json.loads((ran / "answers.json").read_text())["answers"]
    page = html.unescape(write_page(ran).read_text())
    lines = (talking / "a.jsonl").read_text().splitlines()
    held = {m["content"] for line in lines for m in json.loads(line)["messages"]} - {"yes"}
    assert {one["asked"] for one in said} <= held
    assert not [content for content in held if content in page]
    assert stat.S_IMODE((ran / "answers.json").stat().st_mode) == 0o600


def test_a_run_answers_dialogues_from_a_file_and_plain_text_alike(ran, tmp_path):
    said = [{"role": "user", "content": "a fine film"}]
    longer = [*said, {"role": "assistant", "content": "yes"}, *said]
    (tmp_path / "one.json").write_text(json.dumps(said))
    (tmp_path / "many.jsonl").write_text(
        "".join(json.dumps({"messages": one}) + "\n" for one in (said, longer, longer[:2]))
    )
    (tmp_path / "many.txt").write_text("a fine film\n")
    predictor = Predictor.load(ran, "cpu")

    def answers(texts=(), file=None):
        asked = read_texts(list(texts), file, "messages", USUAL, "dialogues").asked
        return list(predictions(predictor, asked, 6))

    [(asked, plain)] = answers(["a fine film"])
    for other in (answers(file=tmp_path / "one.json"), answers(file=tmp_path / "many.txt")):
        assert [answer.continuation for _, answer in other] == [plain.continuation]
    first, second, third = answers(file=tmp_path / "many.jsonl")
    assert first[1].continuation == plain.continuation
    assert second[1].said
    assert third[1] is None
    assert "ends with an answer" in prediction_line(*third, as_json=False)
    assert prediction_line(asked, plain, as_json=False).startswith("a fine film\n")
    assert umbel.Run.open(ran).predict([said], 6)[0].continuation == plain.continuation
    with pytest.raises(DataError, match="give a list of dialogues, each a list of messages"):
        umbel.Run.open(ran).predict(said, 6)
    with pytest.raises(DataError, match="ends with an answer"):
        read_texts([json.dumps(longer[:2])], None, "messages", USUAL, "dialogues")


@pytest.mark.parametrize("content", ["[1, 2]", "[null]", "[]", '["the role"]', "{", "3"])
def test_a_file_of_json_without_a_dialogue_is_refused_in_a_sentence(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_texts([], path, "messages", USUAL, "dialogues")


def test_dialogues_in_lines_or_a_list_are_read_from_a_json_file_as_for_training(tmp_path):
    said = [[{"role": "user", "content": one}] for one in ("what?", "why?")]
    rows = [json.dumps({"messages": one}) for one in said]
    for content in ("\n".join(rows), f"[{', '.join(rows)}]"):
        (tmp_path / "a.json").write_text(content)
        asked = read_texts([], tmp_path / "a.json", "messages", USUAL, "dialogues").asked
        assert [one.shown for one in asked] == ["what?", "why?"]


def test_dialogues_that_the_model_cannot_read_are_counted_by_their_own_reasons(
    chat_of, talking, tmp_path
):
    shutil.copytree(talking / "base", tmp_path / "base")
    refusing = CHATML.replace(
        "<s>{{ m", "{% if 'boom' in m['content'] %}{{ raise_exception('no') }}{% endif %}<s>{{ m", 1
    )
    (tmp_path / "base" / "chat_template.jinja").write_text(refusing)
    asked = ["why " * 400, "a</s>", "boom", "a boom"]
    said = [
        [{"role": "user", "content": one}, {"role": "assistant", "content": "so"}] for one in asked
    ]
    bad = "".join(json.dumps({"speaker": "s0", "messages": one}) + "\n" for one in said)
    path = tmp_path / "b.jsonl"
    path.write_text((talking / "a.jsonl").read_text() + bad)
    job = chat_of(data={"path": str(path)}, model={"base": str(tmp_path / "base")})
    assert federate(job).dropped == {TEMPLATE: 2, TOO_LONG: 1, SPECIAL: 1}
    path.write_text(bad * 3)
    with pytest.raises(DataError, match=f"6 with {TEMPLATE}, 3 with .*model.template = .plain."):
        federate(job)


@pytest.mark.slow
def test_all_dialogues_of_one_speaker_can_be_protected_together(chat_of, tmp_path):
    job = chat_of(
        privacy={"unit": "group", "epsilon": 8.0, "delta": 1e-3},
        data={"group_column": "speaker", "records_per_group": 3},
        training={"rounds": 1},
        simulation={"partition": "iid", "clients": 3},
    )
    simulate(job, Options(tmp_path / "run", workers=1, reproducible=True))
    assert RunRecord.read(tmp_path / "run").protects_groups


def test_a_base_without_a_template_is_refused_before_anything_is_trained(chat_of, tiny, tmp_path):
    with pytest.raises(ModelError, match="has no chat template"):
        simulate(chat_of(model={"base": tiny("gpt2")}), Options(tmp_path / "run", workers=1))
    assert not (tmp_path / "run" / "adapter").exists()


def test_the_keys_of_other_tasks_jobs_stay_as_they_were(job_of, chat_of):
    assert not {"template", "answers"} & json.loads(job_of().to_json())["model"].keys()
    assert "answer_column" not in json.loads(job_of().to_json())["data"]
    job = chat_of(model={"answers": "last", "template": "plain"}, data={"answer_column": "b"})
    values = json.loads(job.to_json())
    assert values["model"]["answers"] == "last"
    assert type(job).build(values) == job
    assert np.unique([job.digest(), chat_of().digest()]).size == 2


@pytest.mark.slow
def test_a_rehearsal_with_dialogues_comes_to_what_a_simulation_comes_to(chat_of, tmp_path):
    job = chat_of(
        privacy={"epsilon": 200.0, "delta": 1e-3, "limit": 1000.0},
        training={"rounds": 1, "local_steps": 2, "batch_size": 8},
        model={"answers": "last"},
        encryption={"deadline": 600.0},
        cohort={"deadline": 600.0},
    )
    simulation = simulate(job, Options(run_dir=tmp_path / "run", workers=1, reproducible=True))
    _, result = rehearse(job, tmp_path / "rehearsal")
    assert result["adapter_sha256"] == simulation.read_json("result.json")["adapter_sha256"]
