"""The house: which rooms there are, and that each knows only those below it (docs/architecture.md)."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def loaded():
    spec = importlib.util.spec_from_file_location("umbel_floors", ROOT / "docs" / "floors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


house = loaded()
MOST_ROOMS = 22
LOOSE = {"clock", "errors", "foreign", "quantities"}
# What no import may turn round, lowest first.
STAIRS = [
    {"storage", "wire", "tasks"},
    {"privacy", "job"},
    {"learning", "consortium", "strategies", "run"},
    {"planning"},
    {"certificate", "reports"},
    {"server", "client"},
    {"simulations"},
    {"redteam"},
    {"cli"},
]
FILES = [path for room in house.rooms() for path in house.files(room)]
# What stands beside the package, and is read as well.
BESIDE = ["tests", "benchmarks", "examples", "docs", "deploy"]
# Longer than a file may be, and waiting to be parted: this list gets shorter only.
LONG: set[str] = set()


@pytest.mark.parametrize(
    "floor", range(len(STAIRS)), ids=lambda floor: "+".join(sorted(STAIRS[floor]))
)
def test_a_room_knows_only_rooms_below_its_own(floor):
    above = set().union(*STAIRS[floor + 1 :])
    for room in STAIRS[floor]:
        up = house.below()[room] & (above | STAIRS[floor])
        assert not up, f"{room}/ imports from {sorted(up)}"


def test_no_rooms_import_in_a_circle_and_the_page_shows_them_as_they_are():
    text = house.PAGE.read_text(encoding="utf-8")
    assert house.table() in text, "run: python docs/floors.py"
    assert house.page(text) == text


def test_there_are_few_rooms_and_little_stands_in_the_hall():
    found = house.rooms()
    assert {name for name, place in found.items() if not place.is_dir()} == LOOSE
    assert len(found.keys() - LOOSE) <= MOST_ROOMS


def test_what_makes_updates_safe_knows_neither_jobs_nor_flower():
    assert house.below()["privacy"] <= {"storage", *LOOSE}
    for path in house.files("privacy"):
        assert not names_of_flower(path), path


def names_of_flower(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    return [name for name in modules if name.split(".")[0] == "flwr"]


def too_long(files):
    """Those of more than 400 lines."""
    return {
        str(path.relative_to(ROOT))
        for path in files
        if len(path.read_text(encoding="utf-8").splitlines()) > 400
    }


def test_no_file_is_too_long_to_read():
    long = too_long(FILES) | too_long(
        path for folder in BESIDE for path in (ROOT / folder).rglob("*.py")
    )
    assert long <= LONG
    assert not LONG - long, "parted: take it off the list"


def test_an_import_that_goes_up_is_found(tmp_path, monkeypatch):
    for room, text in (("low", "from ..high.b import x"), ("high", "from ..low import a")):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text('"""A room."""')
        (tmp_path / room / ("a.py" if room == "low" else "b.py")).write_text(text)
    other = loaded()
    monkeypatch.setattr(other, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="in a circle: high, low"):
        other.floors()
