"""DP-SGD at the client (Abadi et al. 2016, Algorithm 1), for whatever tensors of a model train.

Opacus' hooks give each example's gradient; clipping and noise are ours, because Opacus' optimizer
clips in the gradients' own precision, draws torch's noise tensor by tensor, and cannot step without
examples. The hooks rely on the layers' own book-keeping, so their sum is compared with autograd's
gradient in every pass: a layer that they misread stops the training instead of weakening it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.embedding import compute_embedding_grad_sample
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import ModelError
from .randomness import SecretStream

# Share of the summed per-example norms by which the two gradients may differ. Rounding in bfloat16
# makes up to 0.002; a misread layer is wrong by about 1 / sqrt(batch).
_ROUNDING = 0.01
# Numbers (256 MB) held between microbatches: enough for adapters, not for whole models, whose
# gradients must make room for the next activations.
_MOST_KEPT = 1 << 26
_PARAMETER_ATTRIBUTES = ("grad_sample", "_forward_counter")
_MODULE_ATTRIBUTES = ("activations", "max_batch_len", "ft_compute_sample_grad")


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
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        _check_layers(module)
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
            self._hooks = _ExampleGradients(module, loss_reduction="sum", strict=False)
        except BaseException:
            _strip(module)
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
            _strip(self._bare)

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
        self._check_against_autograd(sums, norms.sum(dim=1))
        for name, part in zip(self._parameters, self._parts(), strict=True):
            if name in sums:
                part += sums[name][0]

    def _check_against_autograd(self, sums: dict[str, Tensor], scales: Tensor) -> None:
        """The examples' gradients must add up to the gradient, to rounding of `scales` (P,)."""
        errors = []
        for name, (_, plain) in sums.items():
            gradient = self._parameters[name].grad
            expected = torch.zeros_like(plain) if gradient is None else gradient.flatten()
            errors.append(torch.linalg.vector_norm(plain - expected))
        wrong = (torch.stack(errors) > _ROUNDING * scales).nonzero().flatten().tolist()
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
                "under example-level privacy, or is not in training mode. Freeze it."
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


class _ExampleGradients(GradSampleModule):  # type: ignore[misc]
    """Opacus' hooks, which keep each tensor's gradients (B, *shape) in ``samples``.

    Opacus itself copies them to the tensors, counts uses to tell when one is complete, and takes
    a second use under reentrant checkpointing for a second batch. Here all uses of a tensor in one
    backward pass are summed, in float32.
    """

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__(module, **options)
        self.samples: dict[Tensor, Tensor] = {}
        device = next(p.device for p in module.parameters() if p.requires_grad)
        self._memory = torch.empty(0, device=device)
        self._used = 0
        self._layers = [layer for layer in module.modules() if _own_trainable(layer)]

    def capture_backprops_hook(
        self,
        module: nn.Module,
        _forward_input: Any,
        forward_output: Sequence[Tensor],
        loss_reduction: str,
        batch_first: bool,
    ) -> None:
        if not self.hooks_enabled:
            return
        activations, backprops = self.rearrange_grad_samples(
            module=module,
            backprops=forward_output[0].detach(),
            loss_reduction=loss_reduction,
            batch_first=batch_first,
        )
        sampler = self.GRAD_SAMPLERS.get(type(module), ft_compute_per_sample_gradient)
        for parameter, sample in sampler(module, activations, backprops).items():
            if parameter.requires_grad:
                earlier = self.samples.get(parameter)
                self.samples[parameter] = (
                    self._kept(sample) if earlier is None else earlier + sample
                )

    def _kept(self, sample: Tensor) -> Tensor:
        """The sample in float32, in memory that the last microbatch used where that is enough.

        Asking the system for fresh pages and giving them back took a tenth of every step.
        """
        start = self._used
        self._used += sample.numel()
        if self._used > len(self._memory):
            return sample.float()
        return self._memory[start : self._used].view(sample.shape).copy_(sample)

    def forget(self) -> None:
        self.samples.clear()
        if len(self._memory) < self._used <= _MOST_KEPT:
            self._memory = torch.empty(self._used, device=self._memory.device)
        self._used = 0
        for layer in self._layers:
            layer.__dict__.pop("activations", None)
            layer.__dict__.pop("max_batch_len", None)


def _linear_samples(
    layer: nn.Linear, activations: Sequence[Tensor], backprops: Tensor
) -> dict[Tensor, Tensor]:
    """Opacus' rule for a linear layer, in the order of factors that suits narrow adapters.

    With (B, T, in) inputs and (B, T, out) gradients of the output: per example, out x in. A product
    with 8 rows and 1,536 columns takes a fifth of the time of one with 1,536 rows and 8 columns.
    """
    batch = len(backprops)
    gradients_BTO = backprops.reshape(batch, -1, layer.out_features)
    samples: dict[Tensor, Tensor] = {}
    if layer.weight.requires_grad:
        inputs_BTI = activations[0].to(backprops.dtype).reshape(batch, -1, layer.in_features)
        if layer.out_features <= layer.in_features:
            samples[layer.weight] = torch.bmm(gradients_BTO.mT, inputs_BTI)
        else:
            samples[layer.weight] = torch.bmm(inputs_BTI.mT, gradients_BTO).mT
    if layer.bias is not None and layer.bias.requires_grad:
        samples[layer.bias] = gradients_BTO.sum(dim=1)
    return samples


def _embedding_samples(
    layer: nn.Embedding, activations: Sequence[Tensor], backprops: Tensor
) -> dict[Tensor, Tensor]:
    """Opacus' rule for an embedding, without the padding row: autograd does not train it."""
    samples: dict[Tensor, Tensor] = compute_embedding_grad_sample(layer, activations, backprops)
    if layer.padding_idx is not None and layer.weight in samples:
        samples[layer.weight][:, layer.padding_idx] = 0
    return samples


_ExampleGradients.GRAD_SAMPLERS = GradSampleModule.GRAD_SAMPLERS | {
    nn.Linear: _linear_samples,
    nn.Embedding: _embedding_samples,
}


def _own_trainable(layer: nn.Module) -> list[str]:
    # The dictionary itself: named_parameters() is slow over hundreds of layers, every round.
    return [n for n, p in layer._parameters.items() if p is not None and p.requires_grad]


def _check_layers(module: nn.Module) -> None:
    """Refuse layers that couple examples, or whose gradients cannot be taken one by one."""
    for place, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            coupled = layer.training or not layer.track_running_stats
            trained = [f"{place}.{name}" for name in _own_trainable(layer)]
            if coupled or trained:
                raise ModelError(
                    f"{trained[0] if trained else place} belongs to a batch normalisation, which "
                    "mixes the examples of a batch, so no example has a gradient of its own. Use a "
                    "model with layer or group normalisation."
                )
        elif type(layer) not in GradSampleModule.GRAD_SAMPLERS:
            own = _own_trainable(layer)
            if own and next(layer.buffers(), None) is not None:
                raise ModelError(
                    f"{place}.{own[0]} cannot be trained under example-level privacy: its layer "
                    f"({type(layer).__name__}) has buffers. Freeze it."
                )


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


def _strip(module: nn.Module) -> None:
    """Remove every hook and attribute of Opacus, also after a wrapping that failed half-way."""
    for handle in module.__dict__.pop("autograd_grad_sample_hooks", []):
        handle.remove()
    for parameter in module.parameters():
        for attribute in _PARAMETER_ATTRIBUTES:
            parameter.__dict__.pop(attribute, None)
    for layer in module.modules():
        for attribute in _MODULE_ATTRIBUTES:
            layer.__dict__.pop(attribute, None)
