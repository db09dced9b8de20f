"""The notebooks run from the first cell to the last, and show what they say."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "examples" / "notebooks").glob("*.ipynb"))
RUN = """
import ast, sys
names = {"__name__": "__main__"}
for source in eval(sys.stdin.read()):
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        shows = (getattr(value, name, None) for name in ("_repr_png_", "_repr_html_"))
        print("SHOWN", next((len(show()) for show in shows if show), len(repr(value))))
"""


def cells(path):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_its_code_can_be_read(path):
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert (kept["nbformat"], kept["nbformat_minor"]) == (4, 5)
    assert all(not cell.get("outputs") for cell in kept["cells"])
    assert [ast.parse(source) for source in cells(path)]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    examples = path.parent.parent
    (tmp_path / "notebooks").mkdir()
    shutil.copytree(examples / "data", tmp_path / "data")
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=repr(cells(path)),
        cwd=tmp_path / "notebooks",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SHOWN") >= 3
