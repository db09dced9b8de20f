"""One writer of files: what a room writes appears whole or not at all, for it goes through storage/."""

import ast
from pathlib import Path

import pytest

from umbel.errors import FileError
from umbel.reports import canvas
from umbel.storage.files import write_durably, write_new, write_unflushed

ROOT = Path(__file__).resolve().parent.parent

# Method or function names that put content into a file, whatever they are called on.
WRITING = {
    *(
        "write_text",
        "write_bytes",
        "savefig",
        "imsave",
        "tofile",
        "savez",
        "savez_compressed",
        "savetxt",
    ),
    *(
        "to_csv",
        "to_excel",
        "to_parquet",
        "to_feather",
        "to_pickle",
        "to_hdf",
        "to_html",
        "to_latex",
    ),
    *(
        "save_file",
        "save_pretrained",
        "save_to_disk",
        "write_table",
        "write_feather",
        "write_csv",
        "open_memmap",
    ),
    *("copyfile", "copy2", "copytree", "urlretrieve", "extractall", "NamedTemporaryFile"),
}
# What writes only under these modules: elsewhere the name is common.
OF_MODULE = {
    "save": {"np", "numpy", "torch"},
    "dump": {"json", "pickle", "tomli_w", "yaml", "torch"},
}
OPENING = {"open", "fdopen", "ZipFile", "TarFile", "GzipFile", "BZ2File", "LZMAFile"}
READING = {"O_RDONLY", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"}
# Names of streams that are no file; what is in them goes through storage/ afterwards.
IN_MEMORY = {"stream", "content"}

_MADE = "within a file or folder that write_once lets appear whole"
_GONE = "in a temporary folder that ends with the block"
_OWN = "its own form of a file that is never half written: see there"
ALLOWED = {
    "client/audit_log.py": (["open"], _OWN),
    "client/worker.py": (["write_text"], "a setting of the kernel, below /proc"),
    "flower/control.py": (["write_text"], _GONE),
    "learning/base_model.py": (["save_pretrained", "save_pretrained"], _MADE),
    "learning/examples.py": (["save", "save", "save"], _MADE),
    "learning/export.py": (["save_file", "save_pretrained", *["write_text"] * 2], _MADE),
    "learning/features.py": (["open", "open_memmap", "save"], _MADE),
    "learning/inputs.py": (["save_pretrained", "write_text"], _MADE),
    "learning/merging.py": (["write_text"], _MADE),
    "learning/model_files.py": (["write_text"], _MADE),
    "learning/pictures.py": (["write_text"], _MADE),
    "learning/probing/probe.py": (["write_text"], _MADE),
    "privacy/ledger/witness.py": (["open"], _OWN),
    "privacy/secagg/journal.py": (["open", "open", "open"], _OWN),
    "simulations/ray.py": (["write_bytes"], _GONE),
}


def owner(call):
    """The name that a call's function is an attribute of."""
    base = getattr(call.func, "value", None)
    return base.id if isinstance(base, ast.Name) else None


def modes(call):
    """Constant strings among the arguments of what opens a file; None stands for a mode of unknown value."""
    named = [word.value for word in call.keywords if word.arg == "mode"]
    for value in [*call.args, *named]:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value
    yield from (None for value in named if not isinstance(value, ast.Constant))


def writes(call):
    """Whether a call puts content into a file by itself."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if any(isinstance(word, ast.Name) and word.id in IN_MEMORY for word in call.args):
        return False
    if name in OF_MODULE:
        return owner(call) in OF_MODULE[name]
    if name == "open" and owner(call) == "os":
        flags = {
            node.attr for word in call.args[1:] for node in ast.walk(word) if hasattr(node, "attr")
        }
        return not flags or not flags <= READING
    return any(map(for_writing, modes(call))) if name in OPENING else name in WRITING


def for_writing(mode):
    """Whether a string, if it is the mode in which a file is opened, lets one write; None may be any."""
    return mode is None or bool(set(mode) <= set("rwxabt+:gz*") and set(mode) & set("wxa+"))


def found(text):
    """What a module writes by itself: the function's name, as often as it stands there."""
    tree = ast.parse(text)
    return sorted(
        getattr(node.func, "attr", getattr(node.func, "id", ""))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and writes(node)
    )


def files():
    rooms = [folder for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()]
    return [*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]


def test_no_room_writes_files_but_storage():
    written = {
        str(path.relative_to(ROOT)): names
        for path in files()
        if path.relative_to(ROOT).parts[0] != "storage"
        and (names := found(path.read_text(encoding="utf-8")))
    }
    assert written == {name: names for name, (names, _) in ALLOWED.items()}, (
        "write through storage/files.py (write_durably, write_unflushed, write_once) or storage/logs.py"
    )


@pytest.mark.parametrize(
    "line",
    [
        'open(path, "w").write(text)',
        'path.open("ab")',
        'open(path, mode="x")',
        "open(path, mode=how)",
        "os.open(path, flags)",
        "os.open(path, os.O_RDWR | os.O_CLOEXEC)",
        'gzip.open(path, "wt")',
        'zipfile.ZipFile(path, "a")',
        "path.write_text(text)",
        "path.write_bytes(data)",
        "sheet.savefig(path)",
        "np.save(path, array)",
        "numpy.savez(path, a=array)",
        "frame.to_csv(path)",
        "json.dump(values, file)",
        "torch.save(state, path)",
        "model.save_pretrained(folder)",
        "parquet.write_table(table, path)",
        "shutil.copyfile(path, other)",
    ],
)
def test_every_way_to_write_is_found(line):
    assert found(line), line


@pytest.mark.parametrize(
    "line",
    [
        "open(path).read()",
        'path.open("rb")',
        'path.open("r", encoding="utf-8", errors="replace")',
        "os.open(path, os.O_RDONLY | os.O_NOFOLLOW)",
        "Home.open(folder)",
        "sheet.savefig(stream, format=kind)",
        "np.save(content, flat)",
        "json.dumps(values)",
        "text.replace(old, new)",
    ],
)
def test_what_only_reads_is_not(line):
    assert not found(line), line


def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path):
    from matplotlib.text import Text

    path = tmp_path / "spending.png"
    sheet = canvas.figure("Spending", "of an owner")
    canvas.save(sheet, path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == {"spending.png", "spending.svg"}

    class Torn(Text):
        def draw(self, renderer):
            raise OSError("no more memory")

    sheet.add_artist(Torn(0.5, 0.5, "x"))
    with pytest.raises(OSError, match="no more memory"):
        canvas.save(sheet, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("write", [write_durably, write_unflushed])
def test_a_file_that_cannot_take_its_place_leaves_nothing_behind(write, tmp_path):
    (tmp_path / "name").mkdir()
    with pytest.raises(FileError, match="name cannot be written"):
        write(tmp_path / "name", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_file_for_a_person_takes_no_other_ones_place(tmp_path):
    path = tmp_path / "job.toml"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        write_new(path, "text")
    assert not path.exists()
