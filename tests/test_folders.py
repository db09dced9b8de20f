"""What lies in an owner's and in an operator's folder, and what the page on backups says of it."""

import ast
import re
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").split("## Restore")[0]


def names_in(source, *, own=False):
    """The NAME of every `home.path / "NAME"`, `consortium.path / "NAME"`; if own, `self.path / "NAME"`."""
    folders = {"home.path", "self.home.path", "consortium.path", "self.consortium.path"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            inside = ast.unparse(node.left) in folders | ({"self.path"} if own else set())
            if inside and isinstance(node.right, ast.Constant):
                yield node.right.value


def test_the_names_are_found_in_code():
    found = names_in('open(self.home.path / "a" / "b"); home.path / "c"; run.path / "d"')
    assert set(found) == {"a", "c"}


def test_all_that_is_put_into_a_folder_has_a_word_on_its_backup():
    named = {name.rstrip("/") for name in re.findall(r"`([^`]+)`", PAGE)}
    homes = [ROOT / "client" / name for name in ("home.py", "home_files.py")]
    homes.append(ROOT / "consortium" / "folder.py")
    rooms = ("client", "consortium", "server", "cli")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert set(homes) < set(files)
    found = {
        name
        for path in files
        for name in names_in(path.read_text(encoding="utf-8"), own=path in homes)
    }
    assert {"ledger.sqlite", "umbel.db"} < found
    assert sorted(n for n in found if not any(fnmatch(n, known) for known in named)) == []
