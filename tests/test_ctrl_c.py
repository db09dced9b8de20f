"""Ctrl-C ends a command with one sentence and status 130, from its first import on."""

import subprocess
import sys

import pytest
import typer

from umbel.cli.group import command_group
from umbel.errors import Interrupted

PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

class Impatient(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Impatient())
sys.argv = ["umbel", "schema"]
from umbel.cli import main
main()
"""


@pytest.mark.parametrize("module", ["umbel.cli.commands", "typer", "umbel.errors", "umbel.job"])
def test_ctrl_c_while_the_command_line_is_loaded_is_one_line(module):
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "umbel: Stopped.\n")


@pytest.mark.parametrize("depth", [0, 1])
def test_ctrl_c_in_a_command_is_an_error_like_others(depth):
    app = inner = command_group("Some commands.")
    for _ in range(depth):
        inner = command_group("Commands in a group.")
        app.add_typer(inner, name="group")

    @inner.command()
    def work() -> None:
        raise KeyboardInterrupt

    @inner.command()
    def other() -> None:
        """A second one, so that the first has a name."""

    with pytest.raises(Interrupted) as caught:
        typer.main.get_command(app)(["group"] * depth + ["work"])
    assert caught.value.exit_code == 130
