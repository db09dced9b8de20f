"""Noise and coins of attacks that are the same in every run of the tests.

What an attack proves holds with 95 or 99.9 % confidence: of many sound runs one would be called broken.
"""

import hashlib
import itertools

import pytest

from umbel.privacy.randomness import SecretStream


@pytest.fixture
def streams():
    """Fresh streams, of a name."""

    def of(name):
        numbers = itertools.count()
        return lambda: SecretStream.from_key(
            hashlib.sha256(f"{name} {next(numbers)}".encode()).digest()
        )

    return of
