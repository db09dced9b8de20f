"""A tokenizer that some text could keep busy without end is refused, and those of real models are not."""

import json

import pytest

from umbel.errors import ModelError
from umbel.learning.tokenizer import load_tokenizer
from umbel.learning.tokenizer_rules import check_rules

EXPLODING = [
    r"(a+)+b",
    r"(a|a)*b",
    r"(\s*\w+)*$",
    r"((a?){10})+x",
    r"(?:x+x+)+y",
    r"(?>(a|b)+)*c",
    r"([a-z]+)*",
    r"(a*){2,}",
    r"(?i:(\p{L}+\s?)+)!",
    r"((ab)?)*c",
    r"(a{1,3})+b",
    r"(?<named>a|b)+",
    r"(a?a)*",
    r"(?:a?\w)+",
]
REAL = [
    # What GPT-2, Llama 3, GPT-4o, BLOOM, DeepSeek, CLIP and others split by, in their manner.
    r"'s|'t|'re| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r"<\|endoftext\|>|'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"(?:\r?\n)+(?!\r?\n)",
    r" {2,}",
    r"a+?b|[^a]++b",
]


def _split(pattern):
    return {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}}}


def _replace(content, times=1, **pattern):
    one = {"type": "Replace", "pattern": pattern, "content": content}
    return {"normalizer": {"type": "Sequence", "normalizers": [one] * times}}


@pytest.mark.parametrize("pattern", EXPLODING)
def test_repetitions_of_what_repeats_are_refused(pattern):
    with pytest.raises(ModelError, match="repeats something that itself repeats"):
        check_rules(_split(pattern), "model")


@pytest.mark.parametrize("pattern", REAL)
def test_the_patterns_of_real_models_pass(pattern):
    check_rules(_split(pattern), "model")


def test_texts_may_not_grow_without_measure():
    check_rules(_replace("▁", String=" "), "model")
    check_rules(_replace("aa", times=9, String="a"), "model")
    for growing in (
        _replace("aa", times=30, String="a"),
        _replace("a" * 2000, Regex="x"),
        _replace("a" * 40, times=2, String=""),
    ):
        with pytest.raises(ModelError, match="times as long"):
            check_rules(growing, "model")


def test_words_may_not_be_cut_without_measure():
    check_rules({"model": {"max_input_chars_per_word": 100}}, "model")
    with pytest.raises(ModelError, match="long words take hours"):
        check_rules({"model": {"max_input_chars_per_word": 10**9}}, "model")


def test_one_text_has_the_same_tokens_each_time(tiny, tmp_path):
    """Merges that are left out at random are a way of training, and none of reading."""
    import shutil

    folder = shutil.copytree(tiny("gpt2"), tmp_path / "model")
    file = folder / "tokenizer.json"
    rules = json.loads(file.read_text())
    rules["model"]["dropout"] = 0.5
    file.write_text(json.dumps(rules))
    tokenizer = load_tokenizer(folder)
    text = "what a wonderful film, and what a wonderful ending"
    assert len({tuple(tokenizer(text)["input_ids"]) for _ in range(20)}) == 1
