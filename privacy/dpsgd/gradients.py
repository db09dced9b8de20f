"""The gradient of each example on its own: what takes it, and which layers let it be taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ...errors import ModelError


class ExampleGradients(Protocol):
    """What one backward pass of B losses tells of each example's gradient over all trained tensors."""

    @property
    def module(self) -> nn.Module:
        """What the forward pass calls."""
        ...

    def norms(self, batch: int) -> Tensor:
        """(B,) float32; not finite if the gradient, or its norm in float32, is not.

        Raises ``ModelError`` if the pass cannot be told apart by example.
        """
        ...

    def add_weighted(
        self, weights: Tensor, chosen: Tensor | None, totals: Sequence[Tensor]
    ) -> None:
        """Add the sum weighted by `weights` (B,) to `totals`: (numel,), one a tensor, float32 or
        float64, in which it is then made.

        chosen: bool (B,), the examples that count; what the others hold, NaN too, does not. None:
        all count. Once after each ``norms``.
        """
        ...

    def forget(self) -> None:
        """Drop everything of the last pass."""
        ...

    def close(self) -> None:
        """Leave the module as it was found."""
        ...


def own_trainable(layer: nn.Module) -> list[str]:
    # The dictionary itself: named_parameters() is slow over hundreds of layers, every round.
    return [n for n, p in layer._parameters.items() if p is not None and p.requires_grad]


def check_layers(module: nn.Module) -> None:
    """Refuse layers that couple examples, or whose gradients cannot be taken one by one."""
    for place, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            coupled = layer.training or not layer.track_running_stats
            trained = [f"{place}.{name}" for name in own_trainable(layer)]
            if coupled or trained:
                raise ModelError(
                    f"{trained[0] if trained else place} belongs to a batch normalisation, which "
                    "mixes the examples of a batch, so an example has no gradient of its own. Use a "
                    "model with layer or group normalisation."
                )
        elif isinstance(layer, _DropoutNd) and layer.p and layer.training:
            raise ModelError(
                f"{place} drops out values by their place in the batch, so one more example changes "
                "the values of all others. Under example-level privacy its probability must be 0."
            )
        else:
            own = own_trainable(layer)
            if own and next(layer.buffers(), None) is not None and not _has_rule(layer):
                raise ModelError(
                    f"{place}.{own[0]} cannot be trained under example-level privacy: its layer "
                    f"({type(layer).__name__}) has buffers. Freeze it."
                )


def _has_rule(layer: nn.Module) -> bool:
    from .hooked import HookedGradients  # brings Opacus: a second of imports, and seldom asked

    return type(layer) in HookedGradients.GRAD_SAMPLERS
