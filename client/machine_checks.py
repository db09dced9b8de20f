"""Whether an owner's machine is fit to take part: software, device, disk, memory."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import UmbelError
from .finding import Finding, Level
from .home import Home
from .policy import Policy

_GIB = 2**30


def software(_: Home) -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    found = [f"Python {platform.python_version()}"]
    for name in ("umbel", "torch", "transformers", "flwr"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("software", "bad", f"{name} is not installed", f"Install {name}.")
    yield Finding("software", "ok", ", ".join(found))


def device(home: Home) -> Iterator[Finding]:
    wanted = "auto"
    with contextlib.suppress(UmbelError):
        wanted = Policy.read(home.policy).resources.device
    if wanted == "cpu":
        yield Finding("device", "ok", "the CPU, as policy.toml requires (resources.device)")
        return
    import torch

    if wanted != "mps" and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        text = f"{torch.cuda.get_device_name()}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        yield Finding("device", "ok", text)
    elif wanted != "cuda" and torch.backends.mps.is_available():
        yield Finding("device", "ok", "the GPU of this Mac (mps)")
    elif wanted == "auto":
        yield Finding("device", "ok", "no GPU: training uses the CPU")
    else:
        yield Finding(
            "device", "warning", f'policy.toml wants "{wanted}", but PyTorch finds no such GPU',
            'Repair the driver, or set resources.device to "auto": jobs cannot run like this.',
        )  # fmt: skip


def disk(home: Home) -> Iterator[Finding]:
    free = shutil.disk_usage(home.path).free
    level: Level = "ok" if free >= 2 * _GIB else "warning"
    remedy = (
        ""
        if level == "ok"
        else "Free some space: without it neither ledger nor journal can be written."
    )
    yield Finding("disk", level, f"{free / _GIB:.1f} GiB free at {home.path}", remedy)


def memory(_: Home) -> Iterator[Finding]:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = f"{total / _GIB:.1f} GiB"
    with contextlib.suppress(OSError, ValueError):
        # Linux alone tells what could be had without swapping.
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        text += f", of which {int(fields['MemAvailable'].split()[0]) / 2**20:.1f} are available"
    yield Finding("memory", "ok", text)
