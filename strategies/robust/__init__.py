"""Rules that hold against clients that send whatever they like: each one small, of a stack of vectors.

A vector is the mean of one group under encryption, or one client's update where nothing is encrypted.
"""

from __future__ import annotations

from .bulyan import Bulyan
from .centred_clipping import CentredClipping
from .compared import Compared
from .geometric_median import GeometricMedian
from .krum import Krum, MultiKrum
from .median import Median
from .norm_bound import NormBound
from .trimmed_mean import TrimmedMean

ROBUST: dict[str, type[Compared]] = {
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "geometric-median": GeometricMedian,
    "krum": Krum,
    "multi-krum": MultiKrum,
    "bulyan": Bulyan,
    "centred-clipping": CentredClipping,
    "norm-bound": NormBound,
}
