"""Random numbers that a guarantee rests on: which records are drawn, and the noise.

torch's CPU generator keeps 32 bits of its seed, and numpy's generators are not cryptographic: who
guesses the seed subtracts the noise. Everything here comes from an AES-256 keystream instead.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Floats = npt.NDArray[np.float64]

KEY_BYTES = 32
_ZEROS = memoryview(bytes(1 << 18))
"""Zeros, to which the cipher adds its keystream; kept, because making them takes as long as the cipher."""
_TWO_TO_MINUS_53 = 2.0**-53
# Pairs of normals made at a time: the temporaries (about 1 MB) then stay in the cache.
_BLOCK_PAIRS = 1 << 14


class SecretStream:
    """Uniform and normal numbers from an AES-256-CTR keystream.

    Guarantee: without the key, the numbers cannot be told from independent draws by any feasible
    computation, and numbers seen so far do not help to predict others.

    Assumptions: AES-256 is a pseudorandom permutation; the key is secret, uniform, and used by one
    stream only; fewer than 2**64 bytes are drawn. ``from_os`` takes the key from the operating
    system's generator and does not keep it. A stream can be neither copied nor pickled, and it
    refuses to work in a forked child, because two streams under one key give the same noise twice.

    Not hardened: a normal is a float64, so the lowest bits of a sum tell something about the number
    that it was added to (Mironov 2012, "On significance of the least significant bits for
    differential privacy"): anyone who adds one rounds the sum to a public grid (``grid``). Nor is the
    running time independent of the values. A normal is never beyond 8.6 standard deviations
    (53-bit uniforms), which changes its distribution by less than 1e-15 in total variation.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"A stream's key has {KEY_BYTES} bytes, not {len(key)}.")
        # The counter may start at zero because a key is never used by two streams.
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    @classmethod
    def from_os(cls) -> SecretStream:
        """A stream under a fresh key that nobody knows: what every real run uses."""
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def from_key(cls, key: bytes) -> SecretStream:
        """The stream of a 32-byte key. Anyone who knows the key removes the noise.

        A key from ``key`` of a secret stream is as good as a fresh one from the operating system; any
        other is for tests, simulations and ``--reproducible`` rehearsals, never for a deployment.
        """
        return cls(key)

    def key(self) -> bytes:
        """32 secret bytes, for the stream of another process, or of a computation that is repeated.

        To draw the same numbers twice is safe only if nothing that was computed with the first ones
        has left, nor ever will: then one answer was given, and its noise was drawn once.
        """
        return self.words(KEY_BYTES // 4).tobytes()

    def uniform(self, n: int) -> Floats:
        """(n,) float64, independent and uniform on the multiples of 2**-53 in [0, 1)."""
        words = self.words(2 * n).view("<u8")
        return (words >> np.uint64(11)).astype(np.float64) * _TWO_TO_MINUS_53

    def words(self, n: int) -> npt.NDArray[np.uint32]:
        """(n,) uint32, independent and uniform."""
        if os.getpid() != self._process:
            raise RuntimeError("A stream of noise was used in a forked process; make a new one.")
        zeros = _ZEROS[: 4 * n] if 4 * n <= len(_ZEROS) else bytes(4 * n)
        return np.frombuffer(self._cipher.update(zeros), dtype="<u4")

    def normal(self, n: int) -> Floats:
        """(n,) float64, independent with mean 0 and standard deviation 1 (Box and Muller 1958)."""
        normals = np.empty(n + n % 2)
        for start in range(0, len(normals), 2 * _BLOCK_PAIRS):
            block = normals[start : start + 2 * _BLOCK_PAIRS]
            pairs = len(block) // 2
            uniforms = self.uniform(2 * pairs)
            # 1 - u is in (0, 1], so that the logarithm is finite.
            radius = np.sqrt(-2.0 * np.log(1.0 - uniforms[:pairs]))
            angle = (2.0 * np.pi) * uniforms[pairs:]
            np.multiply(radius, np.cos(angle), out=block[:pairs])
            np.multiply(radius, np.sin(angle), out=block[pairs:])
        return normals[:n]


def reproducible_stream(seed: int, what: str) -> SecretStream:
    """What stands in for the operating system's generator in a reproducible simulation or rehearsal.

    No secret at all: who knows the job's seed removes the noise.
    """
    key = hashlib.sha256(f"umbel --reproducible\n{seed}\n{what}".encode()).digest()
    return SecretStream.from_key(key)


def poisson_sample(n: int, rate: float, stream: SecretStream) -> npt.NDArray[np.int64]:
    """Draw each of the records 0 .. n-1 independently with probability `rate`.

    Returns the drawn indices, ascending, int64. There may be none. The number drawn is secret too.
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"A sampling rate must lie between 0 and 1: {rate}")
    return np.flatnonzero(stream.uniform(n) < rate).astype(np.int64)
