"""The result as other tools know it: a PEFT adapter (or a whole model) and a small head file.

The folder loads with plain ``peft`` and ``transformers``; its README says how.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..job import Job
from ..wire.arrays import Arrays
from .cache import write_once
from .hugging_face import quiet
from .model import Learner
from .network import POOLED_LAYERS

CARD = "umbel.json"


def export_adapter(learner: Learner, arrays: Arrays, folder: Path) -> None:
    """Write `arrays` as an adapter folder, whole or not at all."""
    learner.network.load(arrays)
    write_once(folder, lambda made: _write(learner, made), private=False)


def _write(learner: Learner, folder: Path) -> None:
    from safetensors.torch import save_file

    job, network = learner.job, learner.network
    backbone: Any = network.backbone
    if job.adapter != "full":
        backbone.peft_config["default"].base_model_name_or_path = job.model.base
    elif job.data.labels and network.mean_head is None:
        backbone.config.id2label = dict(enumerate(job.data.labels))
        backbone.config.label2id = {label: i for i, label in enumerate(job.data.labels)}
    folder.mkdir()
    with quiet():
        backbone.save_pretrained(folder)
    learner.tokenizer.save_pretrained(folder)
    if network.mean_head is not None:
        tensors = {
            n: p.detach().cpu().contiguous() for n, p in network.mean_head.named_parameters()
        }
        save_file(tensors, folder / "head.safetensors")
    (folder / CARD).write_text(json.dumps(_card(learner), indent=2) + "\n", encoding="utf-8")
    readme = f"# {job.name}: tuned with Umbel\n\n{usage(job, learner.loader)}"
    (folder / "README.md").write_text(readme, encoding="utf-8")


def _card(learner: Learner) -> dict[str, Any]:
    """What it takes to build the same network again."""
    job = learner.job
    return {
        "task": job.task,
        "adapter": job.adapter,
        "base": job.model.base,
        "base_sha256": learner.base_digest,
        "labels": list(job.data.labels or ()),
        "model": job.model.model_dump(mode="json"),
    }


def usage(job: Job, loader: str) -> str:
    """Markdown: the Python that loads the folder with plain ``peft`` and ``transformers``.

    loader: as in ``Learner``.
    """
    kind = loader.partition(".")[0]
    lines = ["```python", "import unicodedata", "import torch"]
    labels = f", num_labels={len(job.data.labels or ())}" if kind.endswith("Classification") else ""
    lines.append(f"from transformers import AutoTokenizer, {kind}")
    if job.adapter == "full":
        lines += ["", f"model = {loader.format(_quoted('adapter'))}"]
    else:
        base = loader.format(f"{_quoted(job.model.base)}{labels}")
        lines += [
            "from peft import PeftModel",
            "",
            f"base = {base}  # or its local folder",
            'model = PeftModel.from_pretrained(base, "adapter").eval()',
        ]
    lines.append('tokenizer = AutoTokenizer.from_pretrained("adapter")')
    lines += [
        "",
        "def read(text):  # as every text was read in training",
        '    text = text.replace("\\r\\n", "\\n").replace("\\r", "\\n")',
        '    return unicodedata.normalize("NFC", text).strip()',
        "",
    ]
    if job.pooled:
        lines += [
            "from safetensors.torch import load_file",
            'head = load_file("adapter/head.safetensors")',
            f'inputs = tokenizer([read("a text")], return_tensors="pt"{_padding(job)})',
            'inputs.pop("token_type_ids", None)',
            *_features(job),
            'logits = features @ head["weight"].T + head["bias"]',
            f"labels = {list(job.data.labels or ())!r}",
        ]
    elif job.model.padding == "max_length":
        lines.append(f'inputs = tokenizer([read("a text")], return_tensors="pt"{_padding(job)})')
        if not job.kind.labelled:
            lines += [
                "# generate() does not pad like this: take one token at a time, and pad the longer text.",
                'last = inputs["attention_mask"].sum() - 1',
                "token = model(**inputs).logits[0, last].argmax()",
            ]
    return "\n".join([*lines, "```", ""])


def _quoted(name: str) -> str:
    return f'"{name}"'


def _padding(job: Job) -> str:
    """As the texts were padded in training, where the model needs that."""
    if job.model.padding == "longest":
        return ""
    size = job.model.max_length
    return f', padding="max_length", max_length={size}, truncation=True, padding_side="right"'


def _features(job: Job) -> list[str]:
    """Python for what the head sees: as Network.features."""
    mask = 'mask = inputs["attention_mask"].unsqueeze(-1).float()'
    if job.model.pooling == "mean":
        return [
            "hidden = model(**inputs).last_hidden_state",
            mask,
            "mean = (hidden * mask).sum(1) / mask.sum(1)",
            f"features = torch.nn.functional.normalize(mean, dim=-1) * {job.model.feature_scale}",
        ]
    count = POOLED_LAYERS
    return [
        "hidden = model(**inputs, output_hidden_states=True).hidden_states",
        f"layers = [(len(hidden) - 1) * part // {count} for part in range(1, {count + 1})]",
        mask,
        "means = [(hidden[layer] * mask).sum(1) / mask.sum(1) for layer in layers]",
        "directions = [torch.nn.functional.normalize(mean, dim=-1) for mean in means]",
        f"features = torch.cat(directions, dim=-1) * ({job.model.feature_scale} / {count} ** 0.5)",
    ]
