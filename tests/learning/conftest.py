"""What tests of base models share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(tiny, tmp_path):
    """A model folder that a test may damage."""
    return Path(shutil.copytree(tiny("bert"), tmp_path / "model"))
