"""What a private step releases, without the noise."""

import pytest


@pytest.fixture
def released():
    """A function of a module, a rule from it to losses, and the clipping norm: the clipped sum."""
    import torch

    from umbel.privacy.dpsgd.optimizer import PrivateOptimizer
    from umbel.privacy.randomness import SecretStream

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
            self.released = torch.cat(gradients)

    def step(module, losses, clip, how=None):
        recorder = Recorder([p for p in module.parameters() if p.requires_grad], lr=0.0)
        with PrivateOptimizer(
            module,
            recorder,
            noise_multiplier=0.0,
            clipping_norm=clip,
            expected_batch_size=1.0,
            stream=SecretStream.from_key(bytes(32)),
            gradients=how,
        ) as private:
            private.accumulate(losses(private.module))
            private.step()
        return recorder.released

    return step
