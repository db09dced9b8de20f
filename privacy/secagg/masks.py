"""Masks: AES-128-CTR keystreams, added to a vector of words modulo 2^32.

The order of loops decides the speed: a chunk of the vector stays in the cache while every mask is
made and added to it, so memory is read and written once, however many masks there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

Words = npt.NDArray[np.uint32]
"""A vector of uint32, little-endian in messages."""

KEY_BYTES = 16
_BLOCK = 16  # bytes of an AES block: four words
_CHUNK = 1 << 18  # bytes: chunk and keystream fit a core's L2 cache
_ZEROS = bytes(_CHUNK)
_LARGE = 3 << 19  # words: 6 MiB, which hold large pages wherever they begin


def new_words(n: int) -> Words:
    """uint32[n], whatever was in that memory before.

    numpy asks for large pages from 4 MiB on. With small ones a vector costs more time in page faults
    than in arithmetic, so one that is not much shorter gets that much.
    """
    return np.empty(max(n, _LARGE) if n > _LARGE // 4 else n, dtype="<u4")[:n]


def digest_of(*pieces: Words) -> bytes:
    """BLAKE3 over a vector's words, little-endian: 32 bytes. Vectors are long, and it is fast."""
    state = blake3()
    for words in pieces:
        state.update(words.astype("<u4", order="C", copy=False).data.cast("B"))
    return state.digest()


Mask = tuple[bytes, int]
"""A 16-byte key and a sign, +1 or -1."""


def add_masks(words: Words, masks: Sequence[Mask], threads: int = 1) -> None:
    """Add (or subtract) the keystream of every key to `words`, uint32[n], in place, modulo 2^32.

    Word k of a mask is bytes 4k to 4k + 3 of the AES-128-CTR keystream (SP 800-38A, counter from
    zero), little-endian. A key must be used for one vector only. The result does not depend on
    `threads`.
    """
    if words.dtype != np.dtype("<u4") or words.ndim != 1 or not words.flags.c_contiguous:
        raise ValueError("Masks are added to a contiguous vector of uint32.")
    blocks = -(-words.nbytes // _BLOCK)
    threads = max(1, min(threads, -(-words.nbytes // _CHUNK)))
    if threads == 1:
        _add_range(words, masks, 0)
        return
    per_thread = -(-blocks // threads)
    with ThreadPoolExecutor(threads) as pool:
        starts = range(0, blocks, per_thread)
        parts = [words[4 * at : 4 * (at + per_thread)] for at in starts]
        list(pool.map(_add_range, parts, [masks] * len(parts), starts))


def _add_range(words: Words, masks: Sequence[Mask], first_block: int) -> None:
    streams = [(_keystream(key, first_block), sign) for key, sign in masks]
    buffer = bytearray(_CHUNK + _BLOCK - 1)
    stream_words = np.frombuffer(buffer, dtype="<u4", count=_CHUNK // 4)
    zeros = memoryview(_ZEROS)
    for start in range(0, len(words), _CHUNK // 4):
        part = words[start : start + _CHUNK // 4]
        wanted = zeros[: part.nbytes]
        keystream = stream_words[: len(part)]
        for stream, sign in streams:
            stream.update_into(wanted, buffer)
            (np.add if sign > 0 else np.subtract)(part, keystream, out=part)


def _keystream(key: bytes, first_block: int) -> CipherContext:
    if len(key) != KEY_BYTES:
        raise ValueError(f"A mask's key has {KEY_BYTES} bytes, not {len(key)}.")
    counter = first_block.to_bytes(_BLOCK, "big")
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
