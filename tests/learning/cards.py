"""Base models with habits of their own, and what a fresh process makes of an exported model's card."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

CLOSE, IN_BFLOAT16 = 1e-5, 0.03
LABELS = ["negative", "positive"]
NEW_TOKENS = 12

# Run where Umbel cannot be imported: the code of each card, word for word, then its function.
OUTSIDE = """
import contextlib, io, json, os, sys, traceback
sys.modules["umbel"] = None
cases, texts, new_tokens = json.loads(open(sys.argv[1], encoding="utf-8").read())
found = {}
for name, (folder, code) in cases.items():
    os.chdir(folder)
    scope, shown = {"__name__": "card"}, io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            exec(code, scope)
        if "answer" in scope:
            assert shown.getvalue().strip()
            answer = scope["answer"]
            single = [answer([text])[0] for text in texts]
            names = [scope["config"].id2label[n] for n in range(len(scope["labels"]))]
            found[name] = {"single": single, "batch": answer(texts), "names": names, "none": answer([])}
        else:
            found[name] = {"single": [scope["go_on"](text, new_tokens) for text in texts]}
    except Exception:
        found[name] = {"error": traceback.format_exc()}
print(json.dumps(found))
"""


def python_of(card):
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def awkward(texts):
    """Short, long, blank and odd ones."""
    return [
        texts[0],
        "a",
        "",
        " \u00a0\t",
        " ".join(texts[:9]),
        f"{texts[1]}</s>",
        f"{texts[2]} <pad><pad>",
        "</s>",
        f"  e\u0301 {texts[3]}\r\nand\rmore ",
        f"{texts[4].split()[0]}{' ' * 5000}{texts[5]}",
        texts[6] * 200,
    ]


def base(source, folder, *habits):
    """A copy of a model's folder in which each of the `habits` is put."""
    shutil.copytree(source, folder)
    for habit in habits:
        HABITS[habit](folder)
    return str(folder)


def moved(learner):
    """Arrays as training might leave them: all have moved."""
    generator = np.random.default_rng(0)
    return {
        name: array + generator.normal(scale=0.2, size=array.shape).astype(np.float32)
        for name, array in learner.initial.items()
    }


def _set(file, **values):
    def put(folder):
        path = folder / file
        held = json.loads(path.read_text(encoding="utf-8"))
        held |= {name: value for name, value in values.items() if value is not None}
        for name in [name for name, value in values.items() if value is None]:
            held.pop(name, None)
        path.write_text(json.dumps(held), encoding="utf-8")

    return put


def _tokenizer(**values):
    return _set("tokenizer_config.json", **values)


def _ends_texts(folder):
    from tokenizers import Tokenizer, processors

    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", end)]
    )
    tokenizer.save(path)


def _begins_texts(folder):
    from tokenizers import Tokenizer, processors

    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.save(path)


def _fixed(folder):
    """As a tokenizer is saved after it has padded and cut."""
    from tokenizers import Tokenizer

    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=6, pad_id=1, pad_token="<pad>", direction="left")
    tokenizer.save(path)


def _classifier(folder):
    """The model as a classifier that names the labels of our jobs, in another order and case."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder)
    config.id2label = {0: "POSITIVE", 1: "Negative"}
    config.label2id = {"POSITIVE": 0, "Negative": 1}
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.eval().save_pretrained(folder)


def _chats(folder):
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<s>{{ m['role'][0] }}:{{ m['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<s>a:{% endif %}"
    )


HABITS = {
    "chats": _chats,
    "left": _tokenizer(padding_side="left"),
    "cuts-left": _tokenizer(truncation_side="left"),
    "no-pad": _tokenizer(pad_token=None),
    "pad-is-end": _tokenizer(pad_token="</s>"),
    "short": _tokenizer(model_max_length=5),
    "long": _tokenizer(model_max_length=int(1e30)),
    "fixed": _fixed,
    "ends-texts": _ends_texts,
    "begins-texts": _begins_texts,
    "own-order": _classifier,
    "samples": _set(
        "generation_config.json", do_sample=True, temperature=0.7, no_repeat_ngram_size=2
    ),
}


class Cards:
    """Exports models, and asks both Umbel and the code of their cards."""

    def __init__(self, root, job_of, texts):
        self._root, self._job_of = Path(root), job_of
        self.texts = awkward(texts)
        self._cases, self.predictors = {}, {}

    def add(self, name, base, adapter, pooling=None, **sections):
        """Export a model whose arrays have moved; `pooling` None for a language model."""
        from umbel.learning.export import export_adapter
        from umbel.learning.loading import load_learner

        task = sections.pop("task", "text-classification" if pooling else "causal-lm")
        model = {
            "base": base,
            "adapter": adapter,
            "max_length": 24,
            "lora": {"rank": 2},
            **({"pooling": pooling} if pooling else {}),
            **sections.pop("model", {}),
        }
        data = sections.pop("data", {} if pooling else {"labels": None})
        job = self._job_of(base, task=task, model=model, data=data, **sections)
        learner = load_learner(job, len(job.data.labels or ()))
        folder = self._root / re.sub(r"\W", "-", name)
        folder.mkdir()
        export_adapter(learner, moved(learner), folder / "adapter")
        self.add_run(name, folder)
        return folder / "adapter"

    def add_run(self, name, folder):
        """The folder of a finished run."""
        from umbel.learning.predict import Predictor

        card = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
        self._cases[name] = (str(folder), python_of(card))
        self.predictors[name] = Predictor.load(folder, "cpu")

    def outside(self, python, **options):
        """What the cards' code says of the texts, by case."""
        path = self._root / "cases.json"
        path.write_text(json.dumps([self._cases, self.texts, NEW_TOKENS]), encoding="utf-8")
        out, err = (process := python(OUTSIDE, path, **options)).communicate(timeout=3600)
        assert process.returncode == 0, err
        return json.loads(out.splitlines()[-1])

    def inside(self, name):
        """What Umbel says of them, each asked alone."""
        return [next(self.predictors[name].predict([text], NEW_TOKENS)) for text in self.texts]

    def inside_together(self, name):
        return list(self.predictors[name].predict(self.texts, NEW_TOKENS))

    def check(self, said, name):
        """That the code of a card answered as Umbel does."""
        assert "error" not in said[name], said[name]["error"]
        expected = self.inside(name)
        assert [e.text for e in expected] == self.texts
        if "batch" not in said[name]:
            assert said[name]["single"] == [e.continuation or "" for e in expected]
            assert len(set(said[name]["single"])) > 3
            return
        from umbel.learning.reading.names import clean_text

        assert said[name]["none"] == []
        blank = [not clean_text(text) for text in self.texts]
        exact = self.predictors[name]._learner.network.autocast is False
        for way, close in (("single", CLOSE), ("batch", CLOSE if exact else IN_BFLOAT16)):
            assert len(said[name][way]) == len(expected)
            for found, one, empty in zip(said[name][way], expected, blank, strict=True):
                assert (
                    set(found)
                    == set(one.probabilities)
                    == (set() if empty else {"negative", "positive"})
                )
                assert found == pytest.approx(one.probabilities, abs=close)
        chances = [one.probabilities["positive"] for one in expected if one.probabilities]
        assert max(chances) - min(chances) > 1e-4  # far more than what would be taken for equal
