"""The gradient of each example by Opacus' hooks, for models without rules of their own.

The hooks see, in one ordinary backward pass, what goes into a layer and which gradient comes
back to its output; from the two follows each example's gradient of the layer's tensors. The hooks
rely on the layers' own book-keeping, so their sum is compared with autograd's gradient in every
pass. The bound on a sum does not rest on that: a row of what the hooks saw is clipped whatever it is,
and that rows depend on one example each is what the probe of the loaded model finds out. The comparison
finds layers that would learn the wrong thing.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.embedding import compute_embedding_grad_sample
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient
from torch import Tensor, nn

from ...errors import ModelError
from .factored import add_samples
from .gradients import own_trainable

_log = logging.getLogger(__name__)
# Numbers (256 MB) held between microbatches: enough for adapters, not for whole models, whose
# gradients must make room for the next activations.
_MOST_KEPT = 1 << 26
# Share of the summed per-example norms by which the two gradients may differ. Rounding in bfloat16
# makes up to 0.002; a misread layer is wrong by about 1 / sqrt(batch).
_ROUNDING = 0.01
# The same over all tensors: some gradients are zero but for rounding (the bias of attention keys).
_CANCELLED = 1e-3
_PARAMETER_ATTRIBUTES = ("grad_sample", "_forward_counter")
_MODULE_ATTRIBUTES = ("activations", "max_batch_len", "ft_compute_sample_grad")

# The first trainable layer of a model has inputs without gradients; its hooks work all the same.
warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients")


class HookedGradients(GradSampleModule):  # type: ignore[misc]
    """Opacus' hooks, which hold each tensor's gradients (B, *shape).

    Opacus itself copies them to the tensors, counts uses to tell when one is complete, and takes
    a second use under reentrant checkpointing for a second batch. Here all uses of a tensor in one
    backward pass are summed, in float32.
    """

    def __init__(
        self, module: nn.Module, parameters: dict[str, nn.Parameter], *, strict: bool = True
    ) -> None:
        """strict: whether gradients that do not add up are an error, or a line in the log."""
        self._strict = strict
        self._bare = [module]  # in a list, for a module attribute would become a part
        try:
            super().__init__(module, loss_reduction="sum", strict=False)
        except BaseException:
            strip(module)
            raise
        self._parameters_by_name = parameters
        self._samples: dict[Tensor, Tensor] = {}
        self._flat: dict[str, Tensor] = {}
        device = next(p.device for p in module.parameters() if p.requires_grad)
        self._memory = torch.empty(0, device=device)
        self._used = 0
        self._layers = [layer for layer in module.modules() if own_trainable(layer)]

    @property
    def module(self) -> nn.Module:
        return self

    @classmethod
    def validate(cls, module: nn.Module, *, strict: bool = False) -> list[NotImplementedError]:
        """Nothing: ``check_layers`` has looked already, knows more, and names the tensor."""
        return []

    def capture_backprops_hook(
        self,
        module: nn.Module,
        _forward_input: Any,
        forward_output: Sequence[Tensor],
        loss_reduction: str,
        batch_first: bool,
    ) -> None:
        if not self.hooks_enabled or not own_trainable(module):  # it may rest in this step
            return
        if not module.__dict__.get("activations"):
            raise ModelError(
                f"A trainable layer ({type(module).__name__}) was not in training mode in the "
                "forward pass, so its gradients cannot be taken one by one: call train() before."
            )
        activations, backprops = self.rearrange_grad_samples(
            module=module,
            backprops=forward_output[0].detach(),
            loss_reduction=loss_reduction,
            batch_first=batch_first,
        )
        sampler = self.GRAD_SAMPLERS.get(type(module), ft_compute_per_sample_gradient)
        for parameter, sample in sampler(module, activations, backprops).items():
            if parameter.requires_grad:
                earlier = self._samples.get(parameter)
                self._samples[parameter] = (
                    self._kept(sample) if earlier is None else earlier + sample
                )

    def _kept(self, sample: Tensor) -> Tensor:
        """The sample in float32, in memory that the last microbatch used if that is enough.

        Asking the system for fresh pages and giving them back took a tenth of every step.
        """
        start = self._used
        self._used += sample.numel()
        if self._used > len(self._memory):
            return sample.float()
        return self._memory[start : self._used].view(sample.shape).copy_(sample)

    def norms(self, batch: int) -> Tensor:
        self._flat = {
            name: sample
            for name, parameter in self._parameters_by_name.items()
            if (sample := self._sample(name, parameter, batch)) is not None
        }
        if not self._flat:
            raise ModelError("The loss does not depend on any trained tensor.")
        self._norms = torch.stack(
            [torch.linalg.vector_norm(s, dim=1) for s in self._flat.values()]
        )  # (P, B)
        return torch.linalg.vector_norm(self._norms, dim=0)

    def add_weighted(
        self, weights: Tensor, chosen: Tensor | None, totals: Sequence[Tensor]
    ) -> None:
        norms = self._norms
        if chosen is not None:
            self._flat = {n: s.where(chosen[:, None], 0) for n, s in self._flat.items()}
            norms = norms.where(chosen, 0)
        # One product reads the samples once for both the clipped and the plain sum.
        rows = torch.stack([weights, torch.ones_like(weights)])
        sums = {name: rows @ sample for name, sample in self._flat.items()}
        joint = torch.linalg.vector_norm(norms, dim=0)
        tolerances = _ROUNDING * norms.sum(dim=1) + _CANCELLED * joint.sum()
        self._check_against_autograd(sums, tolerances, chosen is None)
        for name, total in zip(self._parameters_by_name, totals, strict=True):
            if name in sums and total.dtype == sums[name].dtype:
                total += sums[name][0]
            elif name in sums:
                add_samples(total, weights, self._flat[name])

    def _check_against_autograd(
        self, sums: dict[str, Tensor], tolerances: Tensor, everybody: bool
    ) -> None:
        """The examples' gradients must add up to the gradient, to `tolerances` (P,).

        If an example does not count, autograd's gradient has it nevertheless: there the check
        cannot be made, and the next pass makes it.
        """
        if not everybody:
            return
        errors = []
        for name, (_, plain) in sums.items():
            gradient = self._parameters_by_name[name].grad
            expected = torch.zeros_like(plain) if gradient is None else gradient.flatten()
            errors.append(torch.linalg.vector_norm(plain - expected))
        wrong = (torch.stack(errors) > tolerances).nonzero().flatten().tolist()
        if not wrong:
            return
        text = (
            "The gradients of single examples do not add up to the gradient of "
            f"{list(sums)[wrong[0]]}: its layer couples examples, or uses the tensor in a way "
            "that the hooks do not see, or another forward pass came in between. Freeze it."
        )
        if self._strict:
            raise ModelError(text)
        _log.warning("%s", text)

    def _sample(self, name: str, parameter: nn.Parameter, batch: int) -> Tensor | None:
        """(B, numel) float32 gradients of each example; None if the loss does not use it."""
        sample = self._samples.get(parameter)
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
                "its input must have one row per example in the first dimension."
            )
        return sample.reshape(batch, -1)

    def close(self) -> None:
        self.disable_hooks()
        strip(self._bare[0])

    def forget(self) -> None:
        self._samples.clear()
        self._flat.clear()
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


HookedGradients.GRAD_SAMPLERS = GradSampleModule.GRAD_SAMPLERS | {
    nn.Linear: _linear_samples,
    nn.Embedding: _embedding_samples,
}


def strip(module: nn.Module) -> None:
    """Remove every hook and attribute of Opacus, also after a wrapping that failed half-way."""
    for handle in module.__dict__.pop("autograd_grad_sample_hooks", []):
        handle.remove()
    for parameter in module.parameters():
        for attribute in _PARAMETER_ATTRIBUTES:
            parameter.__dict__.pop(attribute, None)
    for layer in module.modules():
        for attribute in _MODULE_ATTRIBUTES:
            layer.__dict__.pop(attribute, None)
