"""DP-SGD at the client (Abadi et al. 2016, Algorithm 1), for whatever tensors of a model train.

Each example's gradient comes from ``bookkeeping`` if it has a rule for every trained layer, and
from Opacus' hooks (``gradients``) elsewhere. Clipping and noise are ours in both cases, because
Opacus' optimizer clips in the gradients' own precision, draws torch's noise tensor by tensor, and
cannot step without examples.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ..noise.grid import grid_step, snap
from ..randomness import SecretStream
from .bookkeeping import BookKeeping, has_rules
from .gradients import ExampleGradients, check_layers

GradientsOf = Callable[[nn.Module, dict[str, nn.Parameter]], ExampleGradients]

_log = logging.getLogger(__name__)
# Numbers of noise made at a time: for a whole model, float64 would take twice its memory.
_NOISE_AT_A_TIME = 1 << 20
# Between these float32 squares everything that matters beside a clipping norm, and the grid of the
# noise, a 2^-11 of it, is far from what float32 loses.
_CLIPPING_NORMS = (1e-6, 1e12)
_DEVIATIONS = (1e-20, 1e24)
# Up to so many numbers, a head's or an adapter's, everything is summed in float64, which takes next to
# nothing. Of a whole model so many microbatches are summed in float32 first: there a sum in float64 takes
# a tenth of one, and products in float64 would take as long as the rest.
_FEW, _FOLDED = 1 << 22, 4
_ATTACHED: WeakSet[nn.Module] = WeakSet()


class TornSum(Exception):
    """A failure left the sum of a step with some tensors' parts of a microbatch: see ``restart``."""


class PrivateOptimizer:
    """One DP-SGD optimizer over all trainable tensors of a module together.

    Guarantee: each ``step`` is one release of the Gaussian mechanism with standard deviation
    ``noise_multiplier * clipping_norm``, rounded to a public grid (``grid``), on a sum whose L2
    sensitivity is `clipping_norm` (to 1e-5 relative, the rounding of float32) when one example is added
    or removed; if more than 4 million numbers are trained, whose parts are added up in float32 a few
    at a time, rounding can add to that what docs/dp-sgd.md says. With batches
    drawn by ``randomness.poisson_sample`` it is ``accounting.MechanismEvent(noise_multiplier,
    rate, steps=1)``. What the inner optimizer does with the result is post-processing. With batches
    and weights from ``groups.Groups.sample`` the same holds for one whole group of examples.

    An example whose gradient is not finite, or longer than float32 can square, counts as zero: its
    clipped gradient is then defined as zero, whose norm is within the bound, and no other example's
    part changes with it, so the guarantee holds without exception. Were it an error, whether the
    step failed would tell something about one record, also if it happens to all of a batch. A
    count goes to the owner's log and nowhere else. What stops a training that diverges is the
    weights, which follow from released steps and tell nothing more.

    A norm that reads too small is no way around the bound: float32 loses squares below 2^-126, which
    hides no more than sqrt(P) * 2^-63 of the norm of P numbers (``factored``). For 10^12 numbers that
    is 1.1e-13, a ten-millionth of the least clipping norm that is taken here, 1e-6.

    Assumptions: each example has one entry in one of the `losses`, which depends on no other
    example; `expected_batch_size` and the number of steps do not depend on the data; the stream is
    secret; nothing else that is computed from the examples leaves the client, the sum of losses and
    the log included. Floating-point attacks: see ``grid``.

    Gradients are taken by ``BookKeeping`` if it has a rule for every layer with trained tensors,
    and by ``HookedGradients``, which cost more time and memory, in any other model.

    Tensors may rest in a step (``requires_grad`` is off from its first pass until it is over): gradients are
    clipped over the others alone, which alone move. Which ones do must not depend on the data.

    ``module`` is what the forward pass calls, in training mode. Between a forward pass and its
    ``accumulate`` there is no other pass with gradients, forward or backward.
    """

    module: nn.Module

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        clipping_norm: float,
        expected_batch_size: float,
        stream: SecretStream,
        gradients: GradientsOf | None = None,
        strict: bool = True,
    ) -> None:
        """Attach to the trainable tensors that `module` has now; `optimizer` updates them.

        gradients: how they are taken, for comparisons; None chooses as said above.
        strict: whether hooked gradients that do not add up to autograd's are an error. If not, a
        line in the log says so: the bound on the sum does not rest on this comparison, and an error
        would tell something about the records that were drawn. What is compared on invented records,
        before any is charged, should be strict.
        """
        if not (noise_multiplier >= 0 and math.isfinite(noise_multiplier)):
            raise ValueError(f"noise_multiplier must be finite and >= 0: {noise_multiplier}")
        _check_within("clipping_norm", clipping_norm, _CLIPPING_NORMS)
        if noise_multiplier:
            deviation = noise_multiplier * clipping_norm
            _check_within("noise_multiplier * clipping_norm", deviation, _DEVIATIONS)
        if not expected_batch_size > 0:
            raise ValueError(f"expected_batch_size must be > 0: {expected_batch_size}")
        if module in _ATTACHED:
            raise ValueError("The module already has a private optimizer; close that one first.")
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        _check_tensors(self._parameters, optimizer)
        self._optimizer = optimizer
        self._noise_multiplier = noise_multiplier
        self._clipping_norm = clipping_norm
        self._expected_batch_size = expected_batch_size
        self._stream = stream
        self._bare = module
        self._closed = False
        tensors = list(self._parameters.values())
        self._sizes = [tensor.numel() for tensor in tensors]
        device = tensors[0].device
        # Of a few microbatches; and of all, in float64 if there is one: over a million records a
        # float32 sum would round away more than the bound allows.
        self._pending = 0
        wide = torch.float32 if device.type == "mps" else torch.float64
        self._sum = torch.zeros(sum(self._sizes), device=device, dtype=wide)
        few = sum(self._sizes) <= _FEW
        self._part = self._sum if few else torch.zeros_like(self._sum, dtype=torch.float32)
        self._gradients = example_gradients(module, self._parameters, gradients, strict=strict)
        self.module = self._gradients.module
        _ATTACHED.add(module)

    def accumulate(self, losses: Tensor, weights: Tensor | None = None) -> None:
        """Add the clipped gradients of one microbatch to the step's sum.

        losses: (B,), one loss per example, from the latest forward pass; B may be zero. Each
        example's gradient, over all trainable tensors jointly and in float32, is scaled down to
        `clipping_norm`; then they are summed, each times its weight, if there are `weights`: (B,),
        in [0, 1], which ``groups.Groups.sample`` gives.

        Raises ``ModelError`` if gradients cannot be taken example by example; the sum is then what
        it was before, as it is after any other error but ``TornSum``.
        """
        if losses.dim() != 1:
            raise ValueError(f"losses must have shape (B,), one per example: {tuple(losses.shape)}")
        if weights is not None and (
            weights.shape != losses.shape or not bool(((weights >= 0) & (weights <= 1)).all())
        ):
            raise ValueError("weights must be one number from 0 to 1 for each loss")
        try:
            if len(losses):
                # The caller's autocast must not reach the clipping.
                with torch.autocast(losses.device.type, enabled=False):
                    backward(losses, self._parameters)
                    self._add_clipped(len(losses), weights)
        finally:
            self._forget()

    def step(self) -> None:
        """Release (clipped sum + noise) / expected_batch_size and let the optimizer use it.

        Also right after no ``accumulate`` at all: the step is then noise alone, because an empty
        batch must not show. Raises ``ModelError`` if the weights are then too large to continue with,
        which says nothing beyond the released steps.
        """
        self._fold()
        deviation = self._noise_multiplier * self._clipping_norm
        step = grid_step(deviation)
        for part in torch.split(self._sum, _NOISE_AT_A_TIME):
            # On the CPU: not every accelerator has float64.
            noised = self._stream.normal(len(part)) * deviation
            noised += part.cpu().numpy()
            snap(noised, step)
            part.copy_(torch.from_numpy(noised).to(part.dtype))
        if self._part is not self._sum:
            self._part.copy_(self._sum)
        self._part /= self._expected_batch_size
        for parameter, gradient in zip(self._parameters.values(), self._parts(), strict=True):
            # The sum of what rests in this step is zero, and nobody needs its noise.
            if parameter.requires_grad:
                parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
        self._optimizer.step()
        self._forget()
        self._clear()
        tensors = [parameter.detach() for parameter in self._parameters.values()]
        if not bool(nn.utils.get_total_norm(tensors).isfinite()):
            raise ModelError(
                "Training diverged: the weights are infinite, or too large for float32 to square. "
                "Lower training.learning_rate."
            )

    def forget(self) -> None:
        """Drop what a pass left behind that was never accumulated: one that failed half-way."""
        self._forget()

    def restart(self) -> None:
        """Begin the step again, with a sum of zero."""
        self._forget()
        self._clear()

    def close(self) -> None:
        """Take the hooks off: the bare module works as before and can be wrapped again."""
        if not self._closed:
            self._closed = True
            self._gradients.close()
            _ATTACHED.discard(self._bare)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _parts(self) -> Sequence[Tensor]:
        """The flat sum as one view per trainable tensor."""
        return torch.split(self._part, self._sizes)

    @torch.no_grad()
    def _add_clipped(self, batch: int, weights: Tensor | None) -> None:
        """Clip, weigh and add what the backward pass of `batch` examples left behind."""
        norms = self._gradients.norms(batch)
        factors = (self._clipping_norm / norms.clamp_min(1e-30)).clamp(max=1.0)
        if weights is not None:
            # Only after clipping: a weight inside the norm would be undone by it.
            factors = factors * weights.to(factors)
        finite = norms.isfinite()
        left_out = batch - int(finite.sum())
        if not left_out:
            self._add(factors, None)
            return
        self._add(factors.where(finite, 0), finite)
        _log.warning(
            "%d of %d examples of a private step had a gradient that is not finite (NaN or "
            "infinite), and were left out of it. If this happens often, lower training.learning_rate, "
            "or train in float32.",
            left_out,
            batch,
        )

    def _add(self, weights: Tensor, chosen: Tensor | None) -> None:
        try:
            self._gradients.add_weighted(weights, chosen, self._parts())
            self._pending += 1
            if self._pending == _FOLDED:
                self._fold()
        except ModelError:
            raise  # found before anything was added
        except Exception as error:
            raise TornSum(str(error)) from error

    def _clear(self) -> None:
        self._sum.zero_()
        self._part.zero_()
        self._pending = 0

    def _fold(self) -> None:
        if self._part is not self._sum:
            self._sum += self._part
            self._part.zero_()
        self._pending = 0

    def _forget(self) -> None:
        """Drop everything of the last microbatch, also uses that the loss did not reach."""
        self._gradients.forget()
        for parameter in self._parameters.values():
            parameter.grad = None


def example_gradients(
    module: nn.Module,
    parameters: dict[str, nn.Parameter],
    how: GradientsOf | None = None,
    *,
    strict: bool = True,
) -> ExampleGradients:
    """What takes the gradient of each example in `module`: what training uses, and a probe before it.

    `how` takes them another way, for comparisons; `strict` as for ``PrivateOptimizer``. Raises
    ``ModelError`` for layers that couple examples.
    """
    check_layers(module)
    if how is not None:
        return how(module, parameters)
    if has_rules(module):
        return BookKeeping(module, parameters)
    from .hooked import HookedGradients  # brings Opacus: a second of imports that few models need

    return HookedGradients(module, parameters, strict=strict)


def backward(losses: Tensor, parameters: Mapping[str, nn.Parameter]) -> None:
    """One backward pass of the sum of `losses` (B,), from which each example's gradient is told."""
    for parameter in parameters.values():
        parameter.grad = None
    try:
        losses.sum().backward()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ModelError(
            f"The gradient of each example cannot be taken in this model: {error}"
        ) from error


def _check_within(name: str, value: float, room: tuple[float, float]) -> None:
    """Refuse what float32 cannot keep apart from zero or from infinity, NaN included."""
    if not room[0] <= value <= room[1]:
        raise ValueError(f"{name} must lie between {room[0]:g} and {room[1]:g}: {value}")


def _check_tensors(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    if not parameters:
        raise ModelError("The model has no tensor to train: all are frozen.")
    updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if updated != {id(p) for p in parameters.values()}:
        raise ValueError("The optimizer must hold exactly the trainable tensors of the module.")
    if len({p.device for p in parameters.values()}) > 1:
        raise ValueError("All trainable tensors must be on one device.")
    if torch.get_float32_matmul_precision() != "highest":
        raise ValueError(
            "Clipping needs torch.set_float32_matmul_precision('highest'), torch's default: the "
            "bound on the sum would be broken by rounding."
        )
