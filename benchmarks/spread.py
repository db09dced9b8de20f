"""How sure a mean over seeds is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def interval(values: Sequence[float]) -> float:
    """Half the width of a 95 % interval of the mean (Student's t); NaN for one value."""
    if len(values) < 2:
        return math.nan
    from scipy.stats import t

    spread = statistics.stdev(values) / math.sqrt(len(values))
    return float(t.ppf(0.975, len(values) - 1) * spread)
