"""What systemd reads in a unit: the command, whatever the folder is called, and nothing besides."""

import getpass
import shlex
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from umbel.cli.commands import app
from umbel.consortium.authority import Consortium
from umbel.errors import DeploymentError
from umbel.privacy.secagg.roster import Limits
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


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An operator's folder, as if it lay where a service can see it."""
    monkeypatch.setattr("umbel.storage.units._PRIVATE", ())
    return Consortium.create(tmp_path / "Haus & Hof", "localhost", 9443, Limits()).path


@pytest.mark.parametrize("options", [[], ["--window", "9544"]], ids=["server", "window"])
def test_a_printed_unit_starts_a_command_that_there_is_with_the_folder_of_the_operator(
    options, folder, umbel
):
    status, out, _ = umbel("consortium", "unit", folder, *options)
    assert status == 0
    found = directives(out)
    words = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(found["ExecStart"])]
    root = typer.main.get_command(app)
    with root.make_context("umbel", words[3:], allow_interspersed_args=False) as context:
        name, command, rest = root.resolve_command(context, words[3:])
        given = command.make_context(name, rest, parent=context).params
    assert Path(given["consortium"]) == folder
    assert (name, given["port"]) == (("window", 9544) if options else ("server", None))
    assert found["Restart"] == "always"
    assert shlex.split(found["ReadWritePaths"]) == [str(folder)]
