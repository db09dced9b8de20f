"""The units that Umbel prints are enough: server and agents do a whole run in what they allow."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SANDBOX = Path(__file__).with_name("sandbox.py")
UNSHARE = ["unshare", "--mount", "--propagation", "private"]


@pytest.fixture
def place():
    """A folder outside of those for temporary files, of which a service has one of its own."""
    if not Path("/srv").is_dir():
        pytest.skip("there is no /srv")
    if (
        os.geteuid() != 0
        or subprocess.run([*UNSHARE, "true"], capture_output=True, timeout=600).returncode
    ):
        pytest.skip("a mount namespace takes root, and a container that allows it")
    folder = Path(tempfile.mkdtemp(prefix="umbel-test-", dir="/srv"))
    yield folder
    shutil.rmtree(folder)


def open_to_others(folder):
    """What below a folder other users can read, and no closed folder is around."""
    closed, found = [], []
    for path in sorted(folder.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink() or any(path.is_relative_to(top) for top in closed):
            continue
        if path.is_dir() and not mode & 0o077:
            closed.append(path)
        elif mode & 0o077:
            found.append(path)
    return found


def test_a_run_in_the_sandboxes_of_the_printed_units(place, deploy_in, deployed_job, tiny, umbel):
    shutil.copytree(tiny("bert"), place / "model")
    deployment = deploy_in(
        place / "consortium", deployed_job(base=str(place / "model"), training={"rounds": 1})
    )
    folders = {name: home.path for name, home in deployment.owners.items()}
    runtime = [home.runtime_folder for home in deployment.owners.values()]
    try:
        for name, words in {
            "server": ("consortium", "unit", deployment.consortium.path),
            **{name: ("client", "unit", folder) for name, folder in folders.items()},
        }.items():
            status, printed, err = umbel(*words)
            assert status == 0, err
            (place / f"{name}.service").write_text(printed)
            deployment.prefixes[name] = [
                *UNSHARE, sys.executable, str(SANDBOX), str(place / f"{name}.service"),
            ]  # fmt: skip
        run = deployment.start().place(name="sandboxed")
        assert deployment.finished(run)["rounds"] == 1
        for home in deployment.owners.values():
            deployment.eventually_has(home.name)
            # Commands by hand find what the service uses.
            assert home.witness.parent == home.runtime_folder
            assert any(home.witness.iterdir())
            assert list((home.path / "cache").iterdir())
            assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
            assert open_to_others(home.path / "cache") == []
    finally:
        deployment.end()
        for folder in runtime:
            shutil.rmtree(folder, ignore_errors=True)
