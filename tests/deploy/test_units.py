"""What systemd reads in a unit: the command, whatever the folder is called, and nothing besides."""

import getpass
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.errors import DeploymentError
from umbel.storage.units import unit

WORDS = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1)


def directives(text):
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "["))]
    return dict(line.split("=", 1) for line in lines)


@given(name=WORDS, folder=WORDS.filter(lambda text: "/" not in text and text not in (".", "..")))
def test_a_unit_runs_the_command_for_its_folder_whatever_the_names(name, folder):
    path = Path("/srv") / folder
    found = directives(unit("agent", name, ["client", "run", str(path)], path))
    read = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(found["ExecStart"])]
    assert read[1:] == ["-m", "umbel.cli", "client", "run", str(path)]
    (writable,) = shlex.split(found["ReadWritePaths"])
    assert writable.replace("%%", "%").replace("$$", "$") == str(path)
    assert found["User"] == getpass.getuser()


@pytest.mark.parametrize("temporary", ["/tmp/st-mary", "/var/tmp/x/st-mary"])
def test_a_unit_that_could_not_see_its_folder_or_its_data_is_refused(temporary):
    with pytest.raises(DeploymentError, match="folder for temporary files"):
        unit("agent", "st-mary", ["x"], Path(temporary))
    with pytest.raises(DeploymentError, match="folder for temporary files"):
        unit("agent", "st-mary", ["x"], Path("/srv/st-mary"), reads=[Path(temporary)])
