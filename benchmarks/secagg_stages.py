"""What the stages over a client's vector cost on one thread, beside plain AES over the same bytes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from secagg_slots import CAP, CLIP, WEIGHT, random_update

from umbel.privacy.noise.scale import Scale
from umbel.privacy.randomness import SecretStream
from umbel.privacy.secagg.fixed_point import Contribution, Layout, decode, encode
from umbel.privacy.secagg.masks import KEY_BYTES, Mask, add_masks, digest_of

PARAMETERS = 1_000_000
MEMBERS = 10
TURNS = 20
_CHUNK = 1 << 18
"""Bytes of a chunk that stays in the cache, as masks are made."""


def measure(repeats: int, parameters: int = PARAMETERS, turns: int = TURNS) -> dict[str, float]:
    """CPU milliseconds for so many parameters: the fastest of `repeats` x `turns` turns.

    All stages take turns, so that other load on the machine meets them alike.
    """
    update, layout, scale = (
        random_update(parameters),
        Layout(parameters, 0, 0),
        Scale(MEMBERS, CLIP),
    )
    part, stream = Contribution([update], [], [], WEIGHT), SecretStream.from_os()
    words = encode(part, layout, scale, CAP, stream.words)
    masks: list[Mask] = [(os.urandom(KEY_BYTES), 1) for _ in range(MEMBERS)]
    opposite: list[Mask] = [(key, -sign) for key, sign in masks]
    total = np.zeros_like(words)
    for _ in range(MEMBERS):
        total += words
    cipher = Cipher(algorithms.AES(os.urandom(KEY_BYTES)), modes.CTR(bytes(16))).encryptor()
    zeros, buffer = bytes(words.nbytes), bytearray(words.nbytes + 15)
    view = memoryview(zeros)
    chunk = bytearray(_CHUNK + 15)

    def keystream() -> None:
        for start in range(0, len(zeros), _CHUNK):
            cipher.update_into(view[start : start + _CHUNK], chunk)

    stages: dict[str, tuple[Callable[[], object], int]] = {
        "aes": (lambda: cipher.update_into(zeros, buffer), 1),
        "keystream": (keystream, 1),
        "mask_add": (lambda: add_masks(words, masks), MEMBERS),
        "unmask": (lambda: add_masks(words, opposite), MEMBERS),
        "quantise": (lambda: encode(part, layout, scale, CAP, stream.words), 1),
        "hash": (lambda: digest_of(words), 1),
        "decode": (lambda: decode(total, layout, scale, CAP, MEMBERS), 1),
    }
    fastest = dict.fromkeys(stages, float("inf"))
    for _ in range(turns * repeats):
        for name, (work, times) in stages.items():
            begun = time.process_time()
            work()
            fastest[name] = min(fastest[name], 1e3 * (time.process_time() - begun) / times)
    fastest["add"] = fastest["mask_add"] - fastest["keystream"]
    plain = min(fastest["aes"], fastest["keystream"])
    return fastest | {"mask_add_over_aes": fastest["mask_add"] / plain}
