"""DP-SGD at the client (Abadi et al. 2016, Algorithm 1), for whatever tensors of a model train.

Opacus' hooks give each example's gradient (``gradients``); clipping and noise are ours, because
Opacus' optimizer clips in the gradients' own precision, draws torch's noise tensor by tensor, and
cannot step without examples. The hooks rely on the layers' own book-keeping, so their sum is
compared with autograd's gradient in every pass: a layer that they misread stops the training
instead of weakening it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .gradients import ExampleGradients, check_layers, strip
from .randomness import SecretStream

# Share of the summed per-example norms by which the two gradients may differ. Rounding in bfloat16
# makes up to 0.002; a misread layer is wrong by about 1 / sqrt(batch).
_ROUNDING = 0.01
# The same over all tensors: some gradients are zero but for rounding (the bias of attention keys).
_CANCELLED = 1e-3


class PrivateOptimizer:
    """One DP-SGD optimizer over all trainable tensors of a module together.

    Guarantee: each ``step`` is one release of the Gaussian mechanism with standard deviation
    ``noise_multiplier * clipping_norm`` on a sum whose L2 sensitivity is `clipping_norm`
    (to 1e-5 relative, the rounding of float32) when one example is added or removed. With batches
    drawn by ``randomness.poisson_sample`` it is ``accounting.MechanismEvent(noise_multiplier,
    rate, steps=1)``. What the inner optimizer does with the result is post-processing.

    Assumptions: each example has one entry in one of the `losses`, which depends on no other
    example; `expected_batch_size` and the number of steps do not depend on the data; the stream is
    secret; nothing else that is computed from the examples leaves the client. Errors are not
    covered: that a gradient was not finite tells something about the data, so the caller must count
    the step as spent and not send the message on. Floating-point attacks: see ``SecretStream``.

    ``module`` is what the forward pass calls, in training mode: the hooks need it. Between a
    forward pass and its ``accumulate`` there is no other forward pass with gradients.
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
    ) -> None:
        """Attach to the trainable tensors that `module` has now; `optimizer` updates them."""
        if not (noise_multiplier >= 0 and math.isfinite(noise_multiplier)):
            raise ValueError(f"noise_multiplier must be finite and >= 0: {noise_multiplier}")
        if not (clipping_norm > 0 and math.isfinite(clipping_norm)):
            raise ValueError(f"clipping_norm must be finite and > 0: {clipping_norm}")
        if not expected_batch_size > 0:
            raise ValueError(f"expected_batch_size must be > 0: {expected_batch_size}")
        if "autograd_grad_sample_hooks" in module.__dict__:
            raise ValueError("The module has a private optimizer already; close that one first.")
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        check_layers(module)
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
        self._sum = torch.zeros(sum(self._sizes), device=tensors[0].device)
        try:
            self._hooks = ExampleGradients(module)
        except BaseException:
            strip(module)
            raise
        self.module = self._hooks

    def accumulate(self, losses: Tensor) -> None:
        """Add the clipped gradients of one microbatch to the step's sum.

        losses: (B,), one loss an example, from the latest forward pass; B may be zero. Each
        example's gradient, over all trainable tensors jointly and in float32, is scaled down to
        `clipping_norm`; then they are summed.

        Raises ``ModelError`` where a gradient is not finite, or cannot be taken example by example;
        the sum is then what it was before.
        """
        if losses.dim() != 1:
            raise ValueError(f"losses must have shape (B,), one an example: {tuple(losses.shape)}")
        try:
            if len(losses):
                self._backward(losses)
                # The caller's autocast must not reach the clipping.
                with torch.autocast(losses.device.type, enabled=False):
                    self._add_clipped(len(losses))
        finally:
            self._forget()

    def step(self) -> None:
        """Release (clipped sum + noise) / expected_batch_size and let the optimizer use it.

        Also right after no ``accumulate`` at all: the step is then noise alone, because an empty
        batch must not show.
        """
        noise = self._stream.normal(len(self._sum))
        noise *= self._noise_multiplier * self._clipping_norm
        self._sum += torch.from_numpy(noise).to(torch.float32).to(self._sum.device)
        self._sum /= self._expected_batch_size
        for parameter, gradient in zip(self._parameters.values(), self._parts(), strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype)
        self._optimizer.step()
        self._forget()
        self._sum.zero_()

    def close(self) -> None:
        """Take the hooks off: the bare module works as before and can be wrapped again."""
        if not self._closed:
            self._closed = True
            self._hooks.disable_hooks()
            strip(self._bare)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _backward(self, losses: Tensor) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None
        try:
            losses.sum().backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ModelError(
                f"The gradient of each example cannot be taken in this model: {error}"
            ) from error

    def _parts(self) -> Sequence[Tensor]:
        """The flat sum as one view a trainable tensor."""
        return torch.split(self._sum, self._sizes)

    @torch.no_grad()
    def _add_clipped(self, batch: int) -> None:
        """Clip and add what the backward pass of `batch` examples left at the parameters."""
        samples = {
            name: sample
            for name, parameter in self._parameters.items()
            if (sample := self._sample(name, parameter, batch)) is not None
        }
        if not samples:
            raise ModelError("The loss does not depend on any tensor that is trained.")
        norms = torch.stack(
            [torch.linalg.vector_norm(s, dim=1) for s in samples.values()]
        )  # (P, B)
        joint = torch.linalg.vector_norm(norms, dim=0)  # (B,), over all tensors
        if not bool(joint.isfinite().all()):
            raise ModelError(
                "The gradient of an example is not finite (NaN or infinite), so it cannot be "
                "clipped; the step was not taken. Lower training.learning_rate, or train in "
                "float32."
            )
        factors = (self._clipping_norm / joint.clamp_min(1e-30)).clamp(max=1.0)
        # One product reads the samples once for both the clipped and the plain sum.
        rows = torch.stack([factors, torch.ones_like(factors)])
        sums = {name: rows @ sample for name, sample in samples.items()}
        self._check_against_autograd(sums, _ROUNDING * norms.sum(dim=1) + _CANCELLED * joint.sum())
        for name, part in zip(self._parameters, self._parts(), strict=True):
            if name in sums:
                part += sums[name][0]

    def _check_against_autograd(self, sums: dict[str, Tensor], tolerances: Tensor) -> None:
        """The examples' gradients must add up to the gradient, to `tolerances` (P,)."""
        errors = []
        for name, (_, plain) in sums.items():
            gradient = self._parameters[name].grad
            expected = torch.zeros_like(plain) if gradient is None else gradient.flatten()
            errors.append(torch.linalg.vector_norm(plain - expected))
        wrong = (torch.stack(errors) > tolerances).nonzero().flatten().tolist()
        if wrong:
            raise ModelError(
                f"The gradients of single examples do not add up to the gradient of "
                f"{list(sums)[wrong[0]]}: its layer couples examples, or uses the tensor in a way "
                "that the hooks do not see, or another forward pass came in between. Freeze it."
            )

    def _sample(self, name: str, parameter: nn.Parameter, batch: int) -> Tensor | None:
        """(B, numel) float32 gradients of each example; None where the loss does not use it."""
        sample = self._hooks.samples.get(parameter)
        if sample is None:
            if parameter.grad is None:
                return None
            raise ModelError(
                f"There is no gradient of each example for {name}: its layer cannot be trained "
                "under example-level privacy. Freeze it."
            )
        if len(sample) != batch:
            raise ModelError(
                f"The layer of {name} saw {len(sample)} examples, and there are {batch} losses: "
                "its input must have one row an example in the first dimension."
            )
        return sample.reshape(batch, -1)

    def _forget(self) -> None:
        """Drop everything of the last microbatch, also uses that the loss did not reach."""
        self._hooks.forget()
        for parameter in self._parameters.values():
            parameter.grad = None


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
