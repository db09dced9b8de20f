"""What only a machine with a GPU can show: probes, steps, memory and exports on it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from umbel.errors import UmbelError
from umbel.job import Job
from umbel.learning.export import export_adapter
from umbel.learning.loading import load_learner
from umbel.learning.model import Learner
from umbel.learning.predict import load_exported
from umbel.learning.probing.probe import probed
from umbel.learning.quantization import bytes_of
from umbel.run.events import Round
from umbel.simulations.engine import Options, simulate
from umbel.storage.files import write_durably

WORDS = 400
LENGTH, BATCH = 512, 8
LEAST_OF_PLAIN, MOST_GB = 0.85, 24.0
SECONDS = 540.0
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    "135m": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
             "intermediate_size": 1536, "vocab_size": 49152},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
           "intermediate_size": 8192, "vocab_size": 128256},
    "8b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
           "intermediate_size": 14336, "vocab_size": 128256},
}  # fmt: skip
"""Llama's; of real models of these sizes, with random weights."""
ABOUT = f"""\
It needs no network and no package beside Umbel's own: models have random weights and a tokenizer of {WORDS}
words. Each stage is on its own: one that fails, or for which no time is left, costs no other.

  machine   versions, card, memory
  probe     the probe of docs/models.md on the device, in float32 and bfloat16, for LoRA and all weights
  export    an adapter that moved: exported, loaded again on the device, and asked: the same answer
  steps     SHAPE WAY: LoRA of rank 16 on all linear layers, texts of {LENGTH} tokens, {BATCH} a step,
            bfloat16: tokens a second and the most memory, for a loop written by hand (plain), for Umbel
            without privacy (none) and with DP-SGD (example), on a base in float32 or four bits
  secure    one encrypted round of three clients with the adapter of the largest shape that fits

Bars, on a GPU: private steps of the largest shape at least {LEAST_OF_PLAIN} x the tokens a second of plain
ones, in at most {MOST_GB:g} GB on a base in four bits. Without a GPU (or with --smoke) only the smallest
shape is run. Such a machine without network: make gpu-kit, and what that prints.
"""


class Stages:
    """Runs stages one by one while there is time, and keeps what each found."""

    def __init__(self, seconds: float, out: Path | None) -> None:
        self._end, self._out = time.monotonic() + seconds, out
        self.found: dict[str, Any] = {}

    def run(self, name: str, stage: Callable[[], dict[str, Any]], needs: float = 20.0) -> None:
        """needs: seconds without which it is not begun."""
        begun = time.monotonic()
        if begun + needs > self._end:
            self.found[name] = {"left_out": "no time was left"}
        else:
            try:
                self.found[name] = stage() | {"seconds": time.monotonic() - begun}
            except (Exception, torch.OutOfMemoryError) as error:
                if not isinstance(error, UmbelError):
                    traceback.print_exc()
                self.found[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        print(f"{name}: {json.dumps(self.found[name])[:300]}", file=sys.stderr, flush=True)
        if self._out:
            write_durably(self._out, (json.dumps(self.found, indent=1) + "\n").encode())


def machine() -> dict[str, Any]:
    names = ("torch", "transformers", "peft", "flwr", "opacus", "bitsandbytes", "torchao")
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "card": torch.cuda.get_device_name() if cuda else "none",
        "gigabytes": torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else 0,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        **{name: _version(name) for name in names},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def model_folder(shape: str, folder: Path, device: str) -> Path:
    """A Llama of this shape with random weights, in bfloat16 if it is large, and a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    path = folder / shape
    if path.exists():
        return path
    words = {
        name: at for at, name in enumerate(["<pad>", "</s>", "<unk>", *map(_word, range(WORDS))])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    settings = {"vocab_size": len(words), **SHAPES[shape]}
    config = LlamaConfig(
        **settings, max_position_embeddings=2 * LENGTH, pad_token_id=0, eos_token_id=1
    )
    torch.manual_seed(0)
    kind = torch.float32 if shape == "tiny" else torch.bfloat16
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=kind)
    made = folder / f"{shape}.part"
    model.save_pretrained(made)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(made)
    return made.rename(path)


def _word(number: int) -> str:
    return f"w{number}"


def write_texts(path: Path, count: int, length: int) -> None:
    generator = np.random.default_rng(0)
    rows = [" ".join(map(_word, generator.integers(0, WORDS, length))) for _ in range(count)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")


def job_of(base: Path, data: Path, device: str, **sections: Any) -> Job:
    values: dict[str, dict[str, Any]] = {
        "model": {
            "base": str(base),
            "adapter": "lora",
            "max_length": LENGTH,
            "lora": {"rank": 16, "alpha": 32},
        },
        "data": {"path": str(data), "test_fraction": 0.0},
        "training": {
            "device": device,
            "precision": "bfloat16",
            "local_steps": 4,
            "rounds": 2,
            "batch_size": BATCH,
            "microbatch": BATCH,
            "learning_rate": 1e-4,
        },
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
        "encryption": {"mode": "none"},
        "evaluation": {"counts": "off"},
        "simulation": {"clients": 1, "partition": "iid", "encryption_required": False},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return Job.build({"name": "gpu", "task": "causal-lm", **values})


def probes(job: Job) -> dict[str, Any]:
    found = {}
    for adapter in ("lora", "full"):
        for precision in ("float32", "bfloat16"):
            one = job.changed({"model.adapter": adapter, "training.precision": precision})
            verdict = probed(load_learner(one, 0)).verdict
            assert verdict is not None
            found[f"{adapter} {precision}"] = verdict.padding or verdict.reason
    return found


def exported(job: Job, folder: Path, device: str) -> dict[str, Any]:
    learner = load_learner(job, 0)
    generator = np.random.default_rng(0)
    moved = {
        name: array + generator.normal(scale=0.05, size=array.shape).astype(np.float32)
        for name, array in learner.initial.items()
    }
    export_adapter(learner, moved, folder / "adapter")
    apart = (_outputs(load_exported(folder / "adapter", device)) - _outputs(learner)).abs().max()
    return {"largest_difference": float(apart)}


@torch.inference_mode()
def _outputs(learner: Learner) -> torch.Tensor:
    network = learner.network.eval()
    rows = learner.inputs.invented([24])
    return network(learner.inputs.collate(rows, network.device, None)).float().cpu()


def plain_steps(job: Job) -> dict[str, Any]:
    """A loop written by hand over the same network: forward, backward, AdamW."""
    learner = load_learner(job, 0)
    network = learner.network.train()
    optimizer = torch.optim.AdamW([p for _, p in network.trained_parameters()], lr=1e-4)
    rows = learner.inputs.invented([LENGTH] * BATCH)
    batch = learner.inputs.collate(rows, network.device, LENGTH)
    times = []
    for _ in range(2 * job.training.local_steps):
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        logits = network(batch)[:, :-1]
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten()
        ).backward()
        optimizer.step()
        _wait()
        times.append(time.perf_counter() - begun)
    return _speed(float(np.median(times[2:])), BATCH * LENGTH) | {
        "base_gb": bytes_of(network) / 1e9
    }


def umbel_steps(job: Job) -> dict[str, Any]:
    """The second round of a simulation: `seconds` of its event, all that a round does included."""
    with tempfile.TemporaryDirectory() as folder:
        run = simulate(job, Options(Path(folder) / "run", workers=1))
        last = list(run.told(Round))[-1]
    tokens = job.training.local_steps * BATCH * LENGTH * job.simulation.clients
    return _speed(last.seconds, tokens)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _speed(seconds: float, tokens: int) -> dict[str, Any]:
    most = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    return {"tokens_per_second": tokens / seconds, "most_gb": most}


def ways(quantised: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    kinds = [None, "nf4"] if quantised else [None]
    for kind in kinds:
        base = "four bits" if kind else "float32"
        yield f"plain, {base}", {"model": {"quantization": kind}, "privacy": {"unit": "none"}}
        yield f"none, {base}", {"model": {"quantization": kind}, "privacy": {"unit": "none"}}
        yield f"example, {base}", {"model": {"quantization": kind}}


def missed(found: dict[str, Any], largest: str) -> list[str]:
    """Bars that are not met; what failed is missed, too."""
    reasons = [f"{name}: {one['failed']}" for name, one in found.items() if "failed" in one]
    plain, private = (
        found.get(f"steps {largest} {way}, four bits", {}) for way in ("plain", "example")
    )
    if "tokens_per_second" in plain and "tokens_per_second" in private:
        ratio = private["tokens_per_second"] / plain["tokens_per_second"]
        if ratio < LEAST_OF_PLAIN:
            reasons.append(f"private steps of {largest}: {ratio:.2f} x plain ones")
    if largest == "8b" and not private.get("most_gb", 0) <= MOST_GB:
        reasons.append(f"{private['most_gb']:.1f} GB")
    return reasons


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, help="default: 135m 1b 8b on a GPU")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"(default: {SECONDS:g})")
    parser.add_argument("--out", type=Path, help="JSON file, written after each stage")
    parser.add_argument("--smoke", action="store_true", help="the smallest shape, without bars")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not arguments.smoke else "cpu"
    shapes = arguments.shapes or (["135m", "1b", "8b"] if device == "cuda" else ["tiny"])
    stages = Stages(arguments.seconds, arguments.out)
    quantised = _version("bitsandbytes") is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "texts.jsonl"
        write_texts(data, 64, LENGTH)
        tiny = job_of(model_folder("tiny", folder, "cpu"), data, device)
        stages.run("machine", machine, 0.0)
        stages.run("probe", lambda: probes(tiny.changed({"model.max_length": 48})))
        stages.run("export", lambda: exported(tiny, folder, device))
        for shape in shapes:
            make = lambda shape=shape: {"at": str(model_folder(shape, folder, device))}  # noqa: E731
            stages.run(f"model {shape}", make)
            for way, sections in ways(quantised):
                job = job_of(folder / shape, data, device, **sections)
                steps = plain_steps if way.startswith("plain") else umbel_steps
                stages.run(f"steps {shape} {way}", lambda job=job, steps=steps: steps(job))
        secure = {"encryption": {"mode": "secure-sum"}, "simulation": {"clients": 3}}
        if quantised:
            secure["model"] = {"quantization": "nf4"}
        largest = job_of(folder / shapes[-1], data, device, **secure)
        stages.run(f"secure {shapes[-1]}", lambda: umbel_steps(largest))
    found: dict[str, Any] = {"stages": stages.found}
    found["missed"] = [] if arguments.smoke else missed(stages.found, shapes[-1])
    if arguments.json:
        print(json.dumps(found))
    for what in found["missed"]:
        print(f"missed: {what}", file=sys.stderr)
    return int(arguments.check and bool(found["missed"]))


if __name__ == "__main__":
    sys.exit(main())
