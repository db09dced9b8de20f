"""The checks of a probe: each text's outputs and gradients must not depend on its company."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...privacy.dpsgd.optimizer import backward, example_gradients
from ...tasks.spec import usual_task
from ..batches import forward_batch, microbatch
from ..hugging_face import first_line
from ..model import Learner
from ..network import Batch, compared
from ..tasks import Task
from .company import COUNTS, Company, Pass
from .lookups import checked_lookups
from .randomness import draws_nothing

_TOLERANCE, _TOLERANCE_BFLOAT16 = 2e-4, 0.1
# Tensors with less than this share of a text's gradient are compared by this share: some are zero but
# for rounding (the bias of attention keys).
_LEAST_SHARE = 0.01
# Of texts in a sum: so that nothing that moves from one to another cancels.
_WEIGHTS = (1.0, -0.7, 1.3, -1.1, 0.9, -1.2, 0.8)


class Coupled(Exception):
    """Texts change each other's numbers; the text says where that was seen."""


class CannotRun(ModelError):
    """A pass through the model failed, and not for lack of memory."""


class Independence:
    """One run of all checks in one precision; `fewer` leaves the largest passes to another run."""

    def __init__(self, learner: Learner, task: Task, fewer: bool = False) -> None:
        self._learner, self._task, self._network = learner, task, learner.network
        self._by_place = learner.job.kind.by_place
        self._private = learner.job.noised_locally
        self._on_features = self._network.head_alone and self._network.mean_head is not None
        self._tolerance = _TOLERANCE_BFLOAT16 if self._network.autocast else _TOLERANCE
        self._limit = learner.longest
        spec, device = learner.job.training, self._network.device
        size = (forward_batch if self._on_features else microbatch)(spec, device)
        self._company = Company(learner, min(size, COUNTS[0] + 1) if fewer else size)

    def run(self) -> None:
        with checked_lookups(self._network.device):
            if self._learner.job.model.quantization is not None and not self._on_features:
                self._evaluation_costs_no_gradient()
            through_base = self._private and not self._on_features
            if not through_base or self._network.head_alone:
                self._outputs()
            if self._learner.job.kind.continues:
                self._sees_no_later_token()
            if through_base:
                self._private_training()
            elif not self._on_features:
                self._plain_training()
            elif self._private:
                self._training_on_features()

    # What a text comes to.

    def _output(self, one: Pass) -> list[Tensor]:
        """Each text's logits, or what its head sees, flat float32."""
        batch, network = self._company.batch(one), self._network
        with _run_or_say(self._learner, len(one.texts)):
            if self._on_features:
                return list(network.features(batch).flatten(1))
            rows = self._rows(network(batch), one)
            if network.head_alone:
                seen = network.features(batch).flatten(1)
                rows = [torch.cat(pair) for pair in zip(rows, seen, strict=True)]
        return rows

    def _logits(self, one: Pass) -> list[Tensor]:
        with _run_or_say(self._learner, len(one.texts)):
            return self._rows(self._network(self._company.batch(one)), one)

    def _rows(self, logits: Tensor, one: Pass) -> list[Tensor]:
        logits = logits.detach()
        if not self._by_place:
            return list(logits.flatten(1))
        return [row[: len(t)].flatten() for row, t in zip(logits, one.texts, strict=True)]

    @torch.no_grad()
    def _close(self, found: Tensor, expected: Tensor, what: str) -> None:
        size = float(torch.linalg.vector_norm(expected))
        self._within(float(torch.linalg.vector_norm(found - expected)), size, what)

    def _within(self, error: float, size: float, what: str) -> None:
        if not error <= self._tolerance * size:
            raise Coupled(f"{what} (by {error / max(size, 1e-30):.2g} of its norm)")

    def _compare(self, alone: list[Tensor], found: list[Tensor], one: Pass, where: str) -> None:
        for place, output in zip(one.places, found, strict=True):
            if place >= 0:
                self._close(output, alone[place], f"the output of a text changes {where}")

    # The checks.

    @torch.no_grad()
    def _outputs(self) -> None:
        """As in tests and predictions, and as features are computed."""
        self._network.eval()
        alone = self._each_alone(self._output)
        buffers: dict[str, Tensor] | None = None
        for where, passes in self._company.groups():
            for one in passes:
                self._compare(alone, self._output(one), one, where)
            # The first passes of max_length may grow tables; from then on nothing may change.
            buffers = buffers or _buffers(self._network)
        _check_buffers(self._network, buffers or {})

    def _each_alone(self, output: Callable[[Pass], list[Tensor]]) -> list[Tensor]:
        return [self._usable(output(one)[0]) for one in self._company.alone()]

    def _usable(self, output: Tensor) -> Tensor:
        if bool(output.isfinite().all()) and bool(output.any()):
            return output
        raise ModelError(
            f"{self._base} gives outputs that are zero or not finite (NaN or infinite), so it "
            "cannot be trained. Its weights may be damaged."
        )

    @torch.no_grad()
    def longest_that_runs(self) -> int:
        """The longest text, of up to ``max_length`` tokens, that goes through the network; by halving."""
        self._network.eval()
        runs, fails = 0, self._limit + 1
        while fails - runs > 1:
            middle = (runs + fails) // 2
            (text,) = self._learner.inputs.invented([middle])
            try:
                with checked_lookups(self._network.device):
                    self._logits(Pass([text], [0]))
                runs = middle
            except CannotRun:
                fails = middle
        return runs

    @torch.no_grad()
    def _sees_no_later_token(self) -> None:
        """Two texts with one beginning: what is told of the beginning must be the same."""
        self._network.eval()
        one, other = self._learner.inputs.invented([self._company.longest] * 2, seed=2)
        kept = max(1, self._company.longest // 2)
        other = np.concatenate([one[:kept], other[kept:]])
        first, second = (
            self._usable(self._logits(Pass([text], [0]))[0]).view(self._company.longest, -1)[:kept]
            for text in (one, other)
        )
        error = torch.linalg.vector_norm(first - second)
        if not error <= self._tolerance * torch.linalg.vector_norm(first):
            raise ModelError(
                f"{self._base} is not a causal language model: a later token changes its output "
                "for earlier ones, so it would learn to copy. Use a decoder, or "
                f'task = "{usual_task(labelled=True).name}".'
            )

    def _evaluation_costs_no_gradient(self) -> None:
        """What is trained after a test is what was trained before it (``quantization.keep_gradients``)."""
        network, batch = self._network, self._company.batch(self._company.alone()[0])
        untrained = []
        with _run_or_say(self._learner, 1):
            for _ in range(2):
                self._backward(network.train(), batch)
                untrained.append({n for n, p in network.trained_parameters() if p.grad is None})
                with torch.no_grad():
                    network.eval()(batch)
        network.zero_grad(set_to_none=True)
        if lost := sorted(untrained[1] - untrained[0]):
            raise ModelError(
                f"{self._base}: once the model was tested, {lost[0]} gets no gradient from this version "
                "of the library that quantises it, so it would not be trained. Install another version, "
                "or leave out model.quantization."
            )

    def _plain_training(self) -> None:
        one = self._company.beside_long()[0]
        with _run_or_say(self._learner, len(one.texts)):
            self._backward(self._network.train(), self._company.batch(one))
        self._network.zero_grad(set_to_none=True)

    def _private_training(self) -> None:
        """Gradients through the base model, in passes as large as in training."""
        module = self._network.train()
        with torch.no_grad():
            alone = self._each_alone(self._logits)
            one = self._company.passes(range(len(self._company.texts)))[0]
            draws_nothing(lambda: self._logits(one), self._close)
            module.eval()
            for each in self._company.alone():
                self._compare(alone, self._logits(each), each, "between training and testing")
        module.train()
        company = self._company
        known = [(one, company.batch(one)) for one in company.alone()]
        groups = [(at, [(p, company.batch(p)) for p in passes]) for at, passes in company.groups()]
        self._gradients(module, alone, known, groups)

    def _training_on_features(self) -> None:
        self._network.eval()
        whole = Pass(self._company.texts, list(range(len(self._company.texts))))
        with torch.no_grad():
            features = self._network.features(self._company.batch(whole))

        def part(one: Pass) -> tuple[Pass, Batch]:
            return one, {
                "features": features[one.places],
                **compared(self._company.batch(one)),
            }

        module = self._network.trained_part(True).train()
        known = [part(one) for one in self._company.alone()]
        with torch.no_grad():
            alone = [module(batch)[0] for _, batch in known]
        groups = [
            (where, [part(p) for p in passes]) for where, passes in self._company.groups()[1:3]
        ]
        self._gradients(module, alone, known, groups)

    def _gradients(
        self,
        module: nn.Module,
        outputs: list[Tensor],
        alone: list[tuple[Pass, Batch]],
        groups: list[tuple[str, list[tuple[Pass, Batch]]]],
    ) -> None:
        """Compare gradients as training takes them with those of one text at a time.

        All texts of a group are compared at once, in a sum that has each gradient at length 1, times a
        weight of its own.
        """
        parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        norms, expected = self._one_by_one(module, alone, parameters)
        with self._refused():
            gradients = example_gradients(module, parameters)
        buffers: dict[str, Tensor] | None = None
        found = [torch.zeros_like(total) for total in expected]
        try:
            for where, passes in groups:
                for total in found:
                    total.zero_()
                for one, batch in passes:
                    with self._refused(), _run_or_say(self._learner, len(one.texts)):
                        logits = gradients.module(batch)
                        losses = self._task.losses(logits, batch)
                        with torch.autocast(losses.device.type, enabled=False):
                            backward(losses, parameters)
                            measured = gradients.norms(len(losses)).tolist()
                            weights = [
                                _WEIGHTS[p] / norms[p] if p >= 0 else 0.0 for p in one.places
                            ]
                            vector = torch.tensor(weights, device=losses.device)
                            gradients.add_weighted(vector, None, found)
                        gradients.forget()
                    self._compare(outputs, self._rows(logits, one), one, where)
                    for place, norm in zip(one.places, measured, strict=True):
                        change = abs(norm / norms[place] - 1)
                        if place >= 0 and not change <= self._tolerance:
                            raise Coupled(
                                f"the gradient of a text changes {where} (its norm by {change:.2g})"
                            )
                self._close_gradients(found, expected, where)
                buffers = buffers or _buffers(self._network)
        finally:
            gradients.forget()
            gradients.close()
            module.zero_grad(set_to_none=True)
        _check_buffers(self._network, buffers or {})

    @torch.no_grad()
    def _close_gradients(self, found: list[Tensor], expected: list[Tensor], where: str) -> None:
        norms = [float(torch.linalg.vector_norm(part)) for part in expected]
        least = _LEAST_SHARE * float(np.linalg.norm(norms))
        for part, wanted, norm in zip(found, expected, norms, strict=True):
            # In place: memory for as much again took longer than the subtraction.
            error = float(torch.linalg.vector_norm(part.sub_(wanted)))
            self._within(error, max(norm, least), f"the gradient of a text changes {where}")

    def _one_by_one(
        self,
        module: nn.Module,
        alone: list[tuple[Pass, Batch]],
        parameters: dict[str, nn.Parameter],
    ) -> tuple[list[float], list[Tensor]]:
        """By plain autograd: each text's norm, and the weighted sum of gradients at length 1."""
        norms: list[float] = []
        totals = [torch.zeros_like(p, dtype=torch.float32).flatten() for p in parameters.values()]
        for weight, (_, batch) in zip(_WEIGHTS, alone, strict=False):
            with _run_or_say(self._learner, 1):
                self._backward(module, batch)
            gradients = [p.grad for p in parameters.values()]
            parts = [torch.linalg.vector_norm(g.float()) for g in gradients if g is not None]
            norm = float(torch.linalg.vector_norm(torch.stack(parts))) if parts else 0.0
            if not 0 < norm < float("inf"):
                raise ModelError(
                    f"{self._base}: the gradient of an invented text is "
                    f"{'zero' if norm == 0 else 'not finite'}, so the model cannot be probed and is not "
                    "trained under privacy. Check model.lora.target, and the weights."
                )
            norms.append(norm)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.float().flatten(), alpha=weight / norm)
        module.zero_grad(set_to_none=True)
        return norms, totals

    def _backward(self, module: nn.Module, batch: Batch) -> None:
        module.zero_grad(set_to_none=True)
        self._task.losses(module(batch), batch).sum().backward()

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """Gradients that cannot be taken text by text: the model runs, but not under privacy."""
        try:
            yield
        except CannotRun:
            raise
        except ModelError as error:
            raise ModelError(
                f"{self._base} cannot be trained under per-record privacy as model.adapter = "
                f'"{self._learner.job.adapter}": {first_line(error)} Try another model.adapter or base '
                "model."
            ) from None

    @property
    def _base(self) -> str:
        return self._learner.job.model.base


def _buffers(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def _check_buffers(network: nn.Module, before: dict[str, Tensor]) -> None:
    for name, buffer in network.named_buffers():
        old = before.get(name)
        if old is None or old.shape != buffer.shape or not torch.equal(old, buffer):
            raise Coupled(f"a call changes the buffer {name}, which the next call reads")


@contextlib.contextmanager
def _run_or_say(learner: Learner, count: int) -> Iterator[None]:
    """What a pass through the model fails with, as one sentence."""
    try:
        yield
    except (ModelError, Coupled):
        raise
    except (torch.OutOfMemoryError, MemoryError):
        raise ModelError(
            f"There is not enough memory for {count} texts of model.max_length = "
            f"{learner.longest} tokens at once. Lower training.microbatch or model.max_length."
        ) from None
    except Exception as error:
        raise CannotRun(f"{learner.job.model.base} cannot run: {first_line(error)}") from None
