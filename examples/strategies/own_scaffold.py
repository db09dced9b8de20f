"""A strategy with a state at each owner, in one file: your own SCAFFOLD (Karimireddy et al. 2020).

Take plain SGD: training.optimizer = "sgd" without momentum and weight decay.
"""

import numpy as np

from umbel.strategies import LocalRule, Rule


class Corrected(LocalRule):
    """y <- y - eta (g - c_k + c); then c_k <- c_k - c + (x - y) / (sum of eta)."""

    @classmethod
    def state(cls, shapes):
        return shapes  # c_k: it never leaves the owner

    @classmethod
    def hears(cls, shapes):
        return shapes  # c: the same for all

    def correct(self, name, gradient, weight, start):
        gradient.add_(gradient.new_tensor(self.heard[name] - self.own[name]))

    def next_state(self, update):
        rates = np.float32(self.rates)
        return {n: c_k - self.heard[n] - update[n] / rates for n, c_k in self.own.items()}


class OwnScaffold(Rule):
    """The mean change of the c_k follows from the mean update, so nothing more is sent."""

    local = Corrected

    def __init__(self):
        self._c, self._share, self._rates = {}, 0.0, 0.0

    def sent(self, model):
        return {n: self._c.get(n, np.zeros(w.shape)).astype(np.float32) for n, w in model.items()}

    def summed(self, share, rates):
        self._share, self._rates = share, rates

    def next_model(self, model, mean_update):
        for name, mean in mean_update.items():
            c = self._c.get(name, np.zeros_like(mean))
            self._c[name] = c - self._share * (c + mean / self._rates)
        return {name: model[name] + mean for name, mean in mean_update.items()}
