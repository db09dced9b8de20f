"""The bound of the one-run audit: against scipy, a closed form, and a training that just keeps it."""

import math

import numpy as np
import pytest
from scipy import stats

from umbel.redteam.bound import epsilon_lower_bound, p_value


def by_definition(m, r, v, epsilon, delta):
    """Theorem 5.2 of Steinke, Nasr and Jagielski, term by term."""
    w = stats.binom(r, 1 / (1 + math.exp(-epsilon)))
    slopes = [(w.sf(v - i - 1) - w.sf(v - 1)) / i for i in range(1, v + 1)]
    return min(1.0, w.sf(v - 1) + 2 * m * delta * max(slopes))


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
@pytest.mark.parametrize(
    ("m", "r", "v"), [(50, 20, 1), (50, 20, 15), (1000, 100, 88), (30, 30, 30)]
)
def test_the_p_value_is_that_of_the_theorem(m, r, v, epsilon):
    for delta in (0.0, 1e-5, 1e-2):
        assert p_value(m, r, v, epsilon, delta) == pytest.approx(
            by_definition(m, r, v, epsilon, delta), rel=1e-8
        )


def test_only_right_guesses_have_a_closed_form():
    # All of r right is as likely as p^r, so p = 0.05^(1/r) is just refuted.
    accuracy = 0.05 ** (1 / 100)
    expected = math.log(accuracy / (1 - accuracy))
    assert epsilon_lower_bound(100, 100, 100, 0.0) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 2.5])
def test_randomised_response_is_wronged_in_at_most_one_audit_of_twenty(epsilon):
    """Each coin is told with accuracy e^eps / (1 + e^eps): exactly epsilon-DP, and no slack left."""
    m = 300
    accuracy = 1 / (1 + math.exp(-epsilon))
    wronged = sum(
        stats.binom.pmf(v, m, accuracy)
        for v in range(m + 1)
        if epsilon_lower_bound(m, m, v, 0.0) > epsilon
    )
    assert wronged <= 0.05
    # And the bound is not idle: it comes near what is true.
    typical = epsilon_lower_bound(m, m, round(m * accuracy), 0.0)
    assert typical > 0.6 * epsilon - 0.15


def test_a_leak_that_delta_allows_is_forgiven():
    """With probability delta everything is told, else nothing: (0, delta)-DP for each canary."""
    m, delta = 100, 0.02
    refuted = np.array([epsilon_lower_bound(m, m, v, delta) > 0 for v in range(m + 1)])
    by_chance = stats.binom.pmf(np.arange(m + 1), m, 0.5)
    assert delta * refuted[m] + (1 - delta) * by_chance @ refuted <= 0.05
    # The same guesses would refute epsilon 0 if delta were 0.
    assert epsilon_lower_bound(m, m, 65, 0.0) > 0
    assert not refuted[65]


def test_more_canaries_and_fewer_errors_prove_more():
    assert epsilon_lower_bound(1000, 100, 95, 1e-5) > epsilon_lower_bound(1000, 100, 85, 1e-5)
    assert epsilon_lower_bound(1000, 1000, 900, 1e-5) > epsilon_lower_bound(100, 100, 90, 1e-5)
    assert epsilon_lower_bound(1000, 100, 50, 1e-5) == 0.0


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="does not hold"):
        p_value(10, 11, 5, 1.0, 0.0)
