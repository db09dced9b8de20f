"""Per-example clipping for about the price of a plain step (book-keeping).

Bu, Wang, Zha and Karypis 2023, "Differentially Private Optimization on Large Model at Small Cost",
Section 3: one backward pass carries gradients from layer to layer and skips those of the weights;
each layer notes what went in and what came back, and from the two follow first every example's norm,
then the clipped sum.

Input and output gradient meet inside one node of autograd's graph, so they always belong to one
forward pass, also under gradient checkpointing (both kinds) and for a layer that is used many times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ...errors import ModelError
from .factored import Factored, Lookup, Product

_CONV1D = "transformers.pytorch_utils.Conv1D"  # by name: importing transformers takes seconds

Record = Callable[[nn.Parameter, Product | Lookup | Tensor], None]


class BookKeeping:
    """Per-example gradients of every trained tensor of `module`, by rules for its layers.

    Guarantee: example i's part of ``add_weighted`` depends on rows i of the layers' inputs and of
    their outputs' gradients alone, and ``norms`` is its norm, up to rounding. So the bound on the sum
    holds even for a layer whose gradient were computed wrongly: the model would learn the wrong thing,
    and the bound would be the same.

    A trained tensor that is used in any other way than by a layer's own forward pass is noticed in
    every pass, at no cost: such a use alone leaves a gradient at the tensor.
    """

    def __init__(self, module: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        self.module = module
        self._parameters = parameters
        self._names = {parameter: name for name, parameter in parameters.items()}
        self._found: dict[nn.Parameter, Factored] = {}
        self._layers = [layer for layer in module.modules() if _trained(layer)]
        for layer in self._layers:
            layer.forward = _forward_of(layer, self._record)

    def norms(self, batch: int) -> Tensor:
        """(B,) float32 norms over all tensors together, of the latest backward pass."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                raise ModelError(
                    f"{name} is used outside its layer, where gradients of single examples cannot "
                    "be observed. Freeze it."
                )
        for parameter, factored in self._found.items():
            if factored.batches != {batch}:
                seen = (factored.batches - {batch}).pop()
                raise ModelError(
                    f"The layer of {self._names[parameter]} saw {seen} examples, and there are "
                    f"{batch} losses: its input must have one row per example in the first "
                    "dimension."
                )
        if not self._found:
            raise ModelError("The loss does not depend on any trained tensor.")
        squares = [factored.squared_norms() for factored in self._found.values()]
        return torch.stack(squares).sum(dim=0).sqrt()

    def add_weighted(
        self, weights: Tensor, chosen: Tensor | None, totals: Sequence[Tensor]
    ) -> None:
        """Add the weighted sum of the `chosen` examples' gradients to `totals`, flat, a tensor each."""
        for parameter, total in zip(self._parameters.values(), totals, strict=True):
            # Given back one by one: the factors are most of a step's memory.
            factored = self._found.pop(parameter, None)
            if factored is not None:
                factored.add_to(total, weights, chosen)

    def forget(self) -> None:
        self._found.clear()

    def close(self) -> None:
        for layer in self._layers:
            del layer.__dict__["forward"]

    def _record(self, parameter: nn.Parameter, use: Product | Lookup | Tensor) -> None:
        if parameter not in self._found:
            self._found[parameter] = Factored(parameter.shape)
        self._found[parameter].add(use)


def has_rules(module: nn.Module) -> bool:
    """Whether every layer of `module` with trained tensors is one that book-keeping knows."""
    return all(_rule(layer) is not None for layer in module.modules() if _trained(layer))


def _trained(layer: nn.Module) -> bool:
    return any(p is not None and p.requires_grad for p in layer._parameters.values())


def _rule(layer: nn.Module) -> type[torch.autograd.Function] | None:
    """The function that stands in for a layer's forward pass; None if there is none.

    By exact type: a subclass may do anything. A hook may too, but only to what goes in and out.
    """
    kind = type(layer)
    if "forward" in layer.__dict__:
        return None
    if kind is nn.Linear or f"{kind.__module__}.{kind.__qualname__}" == _CONV1D:
        return _Linear
    if kind is nn.LayerNorm:
        return _LayerNorm if layer.weight is not None else None
    if kind is nn.Embedding:
        plain = layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
        return _Embedding if plain else None
    if kind.__name__.endswith("RMSNorm") and not _has_parts(layer):
        return _Elsewise
    return None


def _has_parts(layer: nn.Module) -> bool:
    return bool(layer._modules or layer._buffers)


def _forward_of(layer: nn.Module, record: Record) -> Callable[[Tensor], Tensor]:
    rule = _rule(layer)
    assert rule is not None

    def forward(input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return type(layer).forward(layer, input)
        # The tensors are arguments so that the output has a gradient also if the input has none.
        tensors = [p for p in layer._parameters.values() if p is not None]
        output: Tensor = rule.apply(layer, record, input, *tensors)
        return output

    return forward


def _over_places(values: Tensor) -> Tensor:
    """(B, ..., C) as (B, T, C)."""
    return values.reshape(len(values), -1, values.shape[-1])


class _Linear(torch.autograd.Function):
    """``nn.Linear`` (weight: out x in) and GPT-2's ``Conv1D`` (weight: in x out)."""

    @staticmethod
    def forward(
        ctx: Any,
        layer: nn.Module,
        record: Record,
        x: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None = None,
    ) -> Tensor:
        ctx.layer, ctx.record = layer, record
        if torch.is_autocast_enabled(x.device.type):
            # Kept in the precision in which it is used, as autograd does.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        ctx.save_for_backward(x)
        return functional.linear(x, weight if type(layer) is nn.Linear else weight.T, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer, record = ctx.layer, ctx.record
        (x,) = ctx.saved_tensors
        weight, bias = layer.weight, layer.bias
        transposed = type(layer) is not nn.Linear
        g_BTO = _over_places(gradient)
        if weight.requires_grad:
            x_BTI = _over_places(x)
            record(weight, Product(x_BTI, g_BTO) if transposed else Product(g_BTO, x_BTI))
        if bias is not None and bias.requires_grad:
            record(bias, g_BTO.sum(dim=1, dtype=torch.float32))
        back = None
        if ctx.needs_input_grad[2]:
            matrix = (weight.T if transposed else weight).to(gradient.dtype)
            back = gradient @ matrix
        return (None, None, back, *[None] * (len(ctx.needs_input_grad) - 3))


class _Embedding(torch.autograd.Function):
    """``nn.Embedding``; its padding row has no gradient, as in autograd."""

    @staticmethod
    def forward(
        ctx: Any, layer: nn.Embedding, record: Record, ids: Tensor, weight: nn.Parameter
    ) -> Tensor:
        ctx.layer, ctx.record = layer, record
        ctx.save_for_backward(ids)
        return functional.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        (ids,) = ctx.saved_tensors
        ids_BT, g_BTC = ids.reshape(len(ids), -1), _over_places(gradient)
        padding = ctx.layer.padding_idx
        if padding is not None:
            g_BTC = g_BTC.masked_fill((ids_BT == padding).unsqueeze(2), 0)
        ctx.record(ctx.layer.weight, Lookup(ids_BT, g_BTC))
        return None, None, None, None


class _LayerNorm(torch.autograd.Function):
    """``nn.LayerNorm``: its gradients are as small as one place, so they are taken at once."""

    @staticmethod
    def forward(
        ctx: Any,
        layer: nn.LayerNorm,
        record: Record,
        x: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None = None,
    ) -> Tensor:
        ctx.layer, ctx.record = layer, record
        if x.device.type != "cpu" and torch.is_autocast_enabled(x.device.type):
            x = x.float()  # as autocast does for this layer, except on the CPU
        output, mean, scale = torch.native_layer_norm(
            x, layer.normalized_shape, weight, bias, layer.eps
        )
        ctx.save_for_backward(x, mean, scale)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer, record = ctx.layer, ctx.record
        x, mean, scale = ctx.saved_tensors
        weight, bias = layer.weight, layer.bias
        x = x.to(gradient.dtype)
        shape = (len(x), -1, *weight.shape)
        if weight.requires_grad:
            products = (x - mean).mul_(scale).mul_(gradient)
            record(weight, products.reshape(shape).sum(dim=1, dtype=torch.float32))
        if bias is not None and bias.requires_grad:
            record(bias, gradient.reshape(shape).sum(dim=1, dtype=torch.float32))
        back = None
        if ctx.needs_input_grad[2]:
            back, _, _ = torch.ops.aten.native_layer_norm_backward(
                gradient.contiguous(),
                x,
                layer.normalized_shape,
                mean,
                scale,
                weight,
                bias,
                [True, False, False],
            )
        return (None, None, back, *[None] * (len(ctx.needs_input_grad) - 3))


class _Elsewise(torch.autograd.Function):
    """Any layer of one input without parts or buffers, example by example with ``torch.func``.

    The forward pass is the layer's own, so every kind of RMSNorm is right, and those to come.
    """

    @staticmethod
    def forward(
        ctx: Any, layer: nn.Module, record: Record, x: Tensor, *tensors: nn.Parameter
    ) -> Tensor:
        ctx.layer, ctx.record = layer, record
        ctx.autocast = torch.is_autocast_enabled(x.device.type)
        ctx.save_for_backward(x)
        output: Tensor = type(layer).forward(layer, x)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer: nn.Module = ctx.layer
        (x,) = ctx.saved_tensors
        tensors = {n: p.detach() for n, p in layer._parameters.items() if p is not None}
        stand_in = copy(layer)

        def forward(tensors: dict[str, Tensor], row: Tensor) -> Tensor:
            stand_in._parameters = {**layer._parameters, **tensors}  # type: ignore[dict-item]
            output: Tensor = type(layer).forward(stand_in, row.unsqueeze(0))
            return output.squeeze(0)

        def back(row: Tensor, from_output: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            pull = torch.func.vjp(forward, tensors, row)[1]
            found: tuple[dict[str, Tensor], Tensor] = pull(from_output)
            return found

        with torch.autocast(x.device.type, enabled=ctx.autocast):
            samples, into_input = torch.func.vmap(back)(x, gradient)
        for name, sample in samples.items():
            parameter = layer._parameters[name]
            if parameter is not None and parameter.requires_grad:
                ctx.record(parameter, sample)
        return (None, None, into_input, *[None] * len(tensors))
