"""Write the lock files of this folder: `make lock`, after a change of pyproject.toml's ranges.

uv resolves for every platform and Python at once, and writes the hashes of all files of a version. PyTorch
is apart, since its builds (CPU, CUDA) have one version and other files, and so are the CUDA libraries that
one of them needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
CPU_BUILD = "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
"""SHA-256 of torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl, which is not on PyPI but on PyTorch's
own index (https://download.pytorch.org/whl/cpu)."""
CUDA = re.compile(r"nvidia-|cuda-|triton$")
OPTIONS = "--universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet"


def resolved(*sources: str, constraints: str) -> dict[str, str]:
    """What pyproject.toml and `sources` come to: each package's lines, by its name and marker."""
    uv = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS.split(), "-c", "-"]
    found = subprocess.run(
        [*uv, *sources], input=constraints, capture_output=True, text=True, cwd=HERE.parent
    )
    if found.returncode:
        sys.exit(found.stderr)
    blocks = re.findall(r"^\S.*?(?=^\S|\Z)", found.stdout, re.MULTILINE | re.DOTALL)
    return {block.split(" \\")[0]: block for block in blocks}


def name(requirement: str) -> str:
    return requirement.split("==")[0]


def write(path: str, what: str, blocks: dict[str, str]) -> None:
    """A file that pip takes with --require-hashes."""
    header = f"# {what}\n# Made by requirements/lock.py (make lock).\n"
    (HERE / path).write_text(header + "".join(blocks[key] for key in sorted(blocks)))


def main() -> None:
    everything = resolved(
        "pyproject.toml",
        "requirements/build.in",
        "--extra",
        "dev",
        "--extra",
        "quantized",
        constraints=TORCH,
    )
    pins = "\n".join(everything)
    run = resolved("pyproject.toml", "requirements/build.in", constraints=pins)
    quantized = resolved(
        "pyproject.toml", "requirements/build.in", "--extra", "quantized", constraints=pins
    )
    plain = {key: block for key, block in everything.items() if not CUDA.match(name(key))}
    torch = plain.pop(next(key for key in plain if name(key) == "torch"))
    write("torch.lock", "PyTorch as it is on PyPI.", {"torch": torch})
    cpu = f"{TORCH}+cpu \\\n    --hash=sha256:{CPU_BUILD}\n"
    write(
        "torch-cpu.lock", "PyTorch without CUDA, for Linux (x86_64, Python 3.11).", {"torch": cpu}
    )
    cuda = {key: block for key, block in everything.items() if CUDA.match(name(key))}
    write("cuda.lock", "What PyTorch's build for CUDA needs besides.", cuda)
    write("run.lock", "What Umbel needs, without PyTorch.",
          {key: plain[key] for key in plain.keys() & run.keys()})  # fmt: skip
    only = plain.keys() & quantized.keys() - run.keys()
    write("quantized.lock", "What bases in four and eight bits need besides run.lock and PyTorch.",
          {key: plain[key] for key in only})  # fmt: skip
    write("dev.lock", "What tests and linters need besides run.lock and PyTorch.",
          {key: plain[key] for key in plain.keys() - run.keys() - only})  # fmt: skip


if __name__ == "__main__":
    main()
