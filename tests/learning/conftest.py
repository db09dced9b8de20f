"""What tests of base models share."""

import shutil
from pathlib import Path

import pytest

from umbel.learning.base_model import base_digest, base_folder


@pytest.fixture
def fresh_bases():
    """Nothing is remembered of base models that other tests have found."""
    base_folder.cache_clear()
    base_digest.cache_clear()


@pytest.fixture
def folder(tiny, tmp_path):
    """A model folder that a test may damage."""
    return Path(shutil.copytree(tiny("bert"), tmp_path / "model"))
