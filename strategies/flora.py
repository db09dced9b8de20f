"""FLoRA: the owners' adapters are stacked, which is to put their exact mean product into the base."""

from __future__ import annotations

import hashlib

import numpy as np

from .products import MeanProduct
from .rebasing import Added, Rebasing


class Flora(Rebasing):
    """FLoRA (Wang et al. 2024, arXiv 2409.05976, sec. 3): the mean product goes into the base, and owners
    begin again with a random A and a B of zeros.

    The paper stacks [w_1 B_1, ..., w_K B_K] and [A_1; ...; A_K], whose product is the mean product D, and
    each owner adds it to its base. Here D comes from two sums, without anybody's factors, and goes into the
    residual: R_B R_A <- R_B R_A + D. As B is zero when a round begins, an owner of a smaller rank loses
    nothing by it. The next A follows from the last one, and so from the job's seed.
    """

    when = "Different ranks per owner, and changes of a higher rank than any owner can train."

    def parted(
        self, mean: MeanProduct, b: np.ndarray, a: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Added]:
        return np.zeros_like(b), drawn_after(a), (mean.left, mean.right)


def drawn_after(a: np.ndarray) -> np.ndarray:
    """A new factor A (r, n), uniform within 1 / sqrt(n) as PEFT draws it, from a digest of the last one."""
    last = np.ascontiguousarray(a, dtype="<f4").tobytes()
    seed = int.from_bytes(hashlib.sha256(b"umbel flora" + last).digest(), "little")
    bound = a.shape[1] ** -0.5
    return np.random.default_rng(seed).uniform(-bound, bound, a.shape)
