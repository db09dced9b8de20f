"""What cannot be trained privately is refused or noticed, and the layer named."""

import pytest
import torch
from torch import Tensor, nn

from umbel.errors import ModelError
from umbel.privacy.dpsgd.bookkeeping import BookKeeping
from umbel.privacy.dpsgd.hooked import HookedGradients

from .small_models import Recorder, clipped_sum, make, private

torch.set_num_threads(1)


def test_a_module_that_is_wrapped_cannot_be_wrapped_again_before_it_is_closed():
    case = make("linear head")
    with private(case.module, Recorder(case.module)) as first:
        with pytest.raises(ValueError, match="close"):
            private(case.module, Recorder(case.module))
        first.accumulate(case.losses(first.module, [0, 1]))
        first.step()
    second = private(case.module, Recorder(case.module))
    first.close()
    second.accumulate(case.losses(second.module, [0, 1]))
    second.close()


def test_batch_normalisation_is_refused_by_name_also_where_it_is_frozen():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(ModelError, match=r"1\.weight"):
        private(module, Recorder(module))
    module[1].requires_grad_(False)
    with pytest.raises(ModelError, match="batch normalisation"):
        private(module, Recorder(module))
    module[1].eval()
    private(module, Recorder(module)).close()


class Counting(nn.Module):
    """A layer that remembers something of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x * self.weight


def test_a_trained_layer_with_buffers_is_refused_by_name_and_a_frozen_one_is_not():
    module = nn.Sequential(nn.Linear(4, 4), Counting())
    with pytest.raises(ModelError, match=r"1\.weight .*has buffers\. Freeze it"):
        private(module, Recorder(module))
    module[1].requires_grad_(False)
    private(module, Recorder(module)).close()


class Bent(nn.Module):
    """Uses its linear layer's weight behind the layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.layer(x), self.layer.weight).sum(dim=1)


class Hidden(Bent):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight).sum(dim=1)


class Broadcast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.places(torch.arange(1))).sum(dim=1)


@pytest.mark.parametrize(
    ("kind", "how", "tensor", "why"),
    [
        (Bent, HookedGradients, r"layer\.weight", "do not add up"),
        (Bent, BookKeeping, r"layer\.weight", "outside its layer"),
        (Hidden, HookedGradients, r"layer\.weight", "no gradient of each example"),
        (Hidden, BookKeeping, r"layer\.weight", "outside its layer"),
        (Broadcast, HookedGradients, r"places\.weight", "saw 1 examples"),
        (Broadcast, BookKeeping, r"places\.weight", "saw 1 examples"),
    ],
)
def test_a_layer_that_is_misread_stops_the_training_and_is_named(kind, how, tensor, why):
    torch.manual_seed(0)
    module = kind()
    recorder = Recorder(module)
    with private(module, recorder, how=how) as dp:
        losses = dp.module(torch.randn(3, 4))
        with pytest.raises(ModelError, match=tensor) as refusal:
            dp.accumulate(losses)
        assert why in str(refusal.value)
        dp.step()
    assert not recorder.released[0].any()


def test_a_forward_pass_in_between_is_noticed_by_the_hooks_and_of_no_matter_otherwise():
    case = make("linear head")
    expected = clipped_sum(case, 0.1, [0, 1])
    recorder = Recorder(case.module)
    with private(case.module, recorder, clip=0.1) as dp:
        first = case.losses(dp.module, [0, 1])
        case.losses(dp.module, [2, 3])
        dp.accumulate(first)
        dp.step()
    assert torch.equal(recorder.released[0], expected)
    with private(case.module, Recorder(case.module), how=HookedGradients) as dp:
        first = case.losses(dp.module, [0, 1])
        case.losses(dp.module, [2, 3])
        with pytest.raises(ModelError, match="do not add up"):
            dp.accumulate(first)


def test_layers_outside_training_mode_are_reported_where_hooks_need_it():
    case = make("linear head")
    case.module.eval()
    with (
        private(case.module, Recorder(case.module), how=HookedGradients) as dp,
        pytest.raises(ModelError, match="training mode"),
    ):
        dp.accumulate(case.losses(dp.module, [0]))


def test_a_loss_summed_over_examples_is_refused():
    case = make("linear head")
    with (
        private(case.module, Recorder(case.module)) as dp,
        pytest.raises(ValueError, match=r"\(B,\)"),
    ):
        dp.accumulate(case.losses(dp.module, [0, 1]).sum())


def test_a_tensor_that_the_optimizer_forgets_is_reported():
    module = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="exactly"):
        private(module, torch.optim.SGD([module.weight]))


def test_a_model_without_trainable_tensors_is_refused():
    module = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(module.parameters())
    module.requires_grad_(False)
    with pytest.raises(ModelError, match="frozen"):
        private(module, optimizer)
