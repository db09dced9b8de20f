"""Which rows are trained on and which are held out, and how rows are known again.

Nothing here depends on which machine reads the file, on the order of the rows or on other rows: a
data owner's agent and a simulation that holds the pooled file split a row alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from .data import Corpus


def split_secret(seed: int) -> bytes:
    """What stands for an owner's own secret in a simulation or rehearsal: the same for all owners."""
    return hashlib.sha256(f"umbel split {seed}".encode()).digest()


def split_rows(
    corpus: Corpus, training_share: float, secret: bytes
) -> tuple[np.ndarray, np.ndarray]:
    """Training rows and held-out rows, each int64 and ascending; together all rows, once each.

    A row is trained on when BLAKE2b of its unit (its group, or its text if it has no group) under
    the key `secret`, read as a fraction of 2^64, lies below `training_share`. Guarantee: the side
    depends on secret, share and group or text alone. So rows of one group, and equal texts without a
    group, are never separated, also not between two owners with one secret; and who does not know
    the secret cannot choose which records are held out. Rows that came as test rows stay test rows.
    """
    if corpus.held_out is not None:
        held_out = corpus.held_out
    else:
        limit = int(training_share * 2**64)
        sides: dict[bytes, bool] = {}
        held_out = np.zeros(len(corpus), dtype=bool)
        for row, key in enumerate(units_of(corpus)):
            side = sides.get(key)
            if side is None:
                side = sides[key] = _keyed(secret, b"split", key, 8) >= limit
            held_out[row] = side
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def units_of(corpus: Corpus) -> list[bytes]:
    """What each row belongs to: its group, or, if it has none, its text.

    The prefix keeps a group apart from a text that reads the same.
    """
    groups = corpus.groups or [""] * len(corpus)
    return [
        f"group {group}".encode() if group else f"text {text}".encode()
        for group, text in zip(groups, corpus.texts, strict=True)
    ]


def row_marks(corpus: Corpus, secret: bytes) -> np.ndarray:
    """uint64[rows]: keyed hashes of the texts, by which the holder of `secret` knows them again.

    Without the secret they tell nothing but which rows are equal (BLAKE2b as a keyed hash: RFC 7693).
    """
    marks = [_keyed(secret, b"row", text.encode(), 8) for text in corpus.texts]
    return np.array(marks, dtype=np.uint64)


def _keyed(secret: bytes, purpose: bytes, content: bytes, size: int) -> int:
    digest = hashlib.blake2b(content, digest_size=size, key=secret, person=purpose).digest()
    return int.from_bytes(digest, "big")


def fingerprint(texts: Iterable[str], labels: Iterable[object] | None) -> str:
    """SHA-256, in hexadecimal, of the rows as a multiset: neither path nor order matters.

    Give label names rather than indices if the numbering may change.
    """
    digests = []
    if labels is None:
        for text in texts:
            digests.append(hashlib.sha256(b"text " + text.encode()).digest())
    else:
        for text, label in zip(texts, labels, strict=True):
            # The length keeps label and text apart, whatever characters they hold.
            name = str(label).encode()
            head = b"labelled %d " % len(name) + name
            digests.append(hashlib.sha256(head + text.encode()).digest())
    digests.sort()
    return hashlib.sha256(b"".join(digests)).hexdigest()
