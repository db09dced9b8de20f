"""A finished run, which tests of certificates read or change."""

import shutil

import pytest

from umbel.simulations.engine import Options, simulate


@pytest.fixture(scope="session")
def finished(job_of, tmp_path_factory):
    """The folder of a small encrypted simulation whose training and tests are private."""
    job = job_of(
        "bert",
        training={"rounds": 2, "batch_size": 64},
        evaluation={"epsilon": 4.0, "every": 1},
    )
    return simulate(job, Options(tmp_path_factory.mktemp("runs") / "run", workers=1)).path


@pytest.fixture
def run(finished, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")
