"""Collect wheels for a machine with a GPU, Python 3.12, PyTorch, transformers and peft, but no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
KIT = HERE.parent / "dist" / "gpu-kit"
LACKS = [
    "annotated-types", "bitsandbytes", "blake3", "cffi", "click", "cryptography", "defusedxml", "et-xmlfile",
    "flwr", "fpdf2", "grpcio-health-checking", "httpcore2", "httpx2", "iterators", "openpyxl", "opacus",
    "pycparser", "pycryptodome", "pydantic", "pydantic-core", "tomli-w", "truststore", "typer",
    "typing-inspection",
]  # fmt: skip
"""What images with PyTorch were seen to lack."""
MOST_MIB = 60
_THERE = """\
On that machine, in this folder:
  python3 -m pip install -q --no-index --no-deps --no-compile --target site dist/gpu-kit/*.whl
  ln -sfn "$PWD" site/umbel
  PYTHONPATH=site HF_HUB_OFFLINE=1 python3 benchmarks/gpu.py --out gpu.json"""


def main() -> None:
    lines = "".join((HERE / name).read_text() for name in ("run.lock", "quantized.lock"))
    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\\\\]+)", lines, re.MULTILINE))
    tags = [*(f"manylinux_2_{minor}" for minor in (39, 34, 28, 24)), "manylinux2014", "manylinux1"]
    where = [word for tag in tags for word in ("--platform", f"{tag}_x86_64")]
    abis = [word for abi in ("cp312", "abi3", "none") for word in ("--abi", abi)]
    wanted = [f"{name}=={pins[name]}" for name in LACKS if name in pins]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "-q",
        "--no-deps",
    ]
    python = ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12"]
    subprocess.run([*pip, *python, *where, *abis, "-d", str(KIT), *wanted], check=True)
    size = sum(file.stat().st_size for file in KIT.glob("*.whl")) / 2**20
    print(f"{KIT}: {len(wanted)} wheels, {size:.0f} MiB\n{_THERE}")
    if size > MOST_MIB:
        sys.exit(
            f"That is more than {MOST_MIB} MiB: some machines take no more. Remove what is large."
        )


if __name__ == "__main__":
    main()
