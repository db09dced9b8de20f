"""What a shell completes beyond commands and options: names of runs, folders, job files, values of options.

It looks at names alone: nothing is created, no large file is read, and whatever goes wrong is no name. What
a shell is given is text that others may have written, so only what is printed without a quote is given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

_PLAIN = re.compile(r"[\w./@%+,-]+")
"""Anything else in a name would need quoting, which differs between shells."""
_OTHERS = {"client.toml", "policy.toml", "pyproject.toml"}
_MOST = 200


def _sure(find: Callable[[click.Context, str], Iterable[str]]) -> Callable[..., list[str]]:
    """At most so many plain names that begin as was typed; none if anything is wrong."""

    def found(ctx: click.Context, incomplete: str) -> list[str]:
        try:
            names = [n for n in find(ctx, incomplete) if n.startswith(incomplete)]
        except Exception:
            return []
        return [name for name in names if _PLAIN.fullmatch(name)][:_MOST]

    return found


@_sure
def job_files(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Files of TOML here or one folder down; beyond that the shell's own completion of files."""
    return _below(incomplete, lambda path: path.suffix == ".toml" and path.name not in _OTHERS)


@_sure
def run_folders(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Folders of runs: runs/latest, ..."""
    return _below(incomplete, lambda path: (path / "job.toml").is_file())


@_sure
def runs_and_jobs(ctx: click.Context, incomplete: str) -> Iterable[str]:
    return [*run_folders(ctx, incomplete), *job_files(ctx, incomplete)]


@_sure
def owners_folders(ctx: click.Context, incomplete: str) -> Iterable[str]:
    return _below(incomplete, lambda path: (path / "client.toml").is_file())


@_sure
def operators_folders(ctx: click.Context, incomplete: str) -> Iterable[str]:
    return _below(incomplete, lambda path: (path / "limits.json").is_file())


@_sure
def names_of_runs(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Runs of the consortium that the command line or the environment names, the newest first."""
    named = ctx.params.get("consortium") or os.environ.get("UMBEL_CONSORTIUM") or "."
    found = [entry for entry in _sorted(f"{named}/runs") if entry.is_dir()]
    return [entry.name for entry in sorted(found, key=lambda one: -one.stat().st_mtime)]


@_sure
def asked_runs(ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Runs that were asked of the owner whose folder this is."""
    from ..client.decisions import Decisions

    folder = Path(ctx.params.get("folder") or ".") / "decisions"
    return [kept.run for kept in reversed(Decisions(folder).list())]


@_sure
def waiting_requests(ctx: click.Context, incomplete: str) -> Iterable[str]:
    from ..client.approvals import Approvals

    folder = Path(ctx.params.get("folder") or ".") / "jobs"
    return [request.id[:12] for request in Approvals(folder).list() if request.status == "pending"]


def one_of(find: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Of values that Umbel itself has, those that begin as was typed."""

    def found(incomplete: str) -> list[str]:
        return [value for value in find() if value.startswith(incomplete)]

    return found


@one_of
def tasks() -> Iterable[str]:
    from ..tasks.spec import BUILT_IN

    return BUILT_IN


@one_of
def partitions() -> Iterable[str]:
    return ("iid", "dirichlet:0.5", "shards:2", "column:")


@one_of
def strategies() -> Iterable[str]:
    from ..strategies.catalogue import NAMES

    return NAMES


@one_of
def job_keys() -> Iterable[str]:
    """As ``--set`` takes them, up to the value."""
    from ..job.reference import keys

    return (f"{key}=" for key in keys())


def _below(incomplete: str, fits: Callable[[Path], bool]) -> Iterator[str]:
    """What fits, in the folder that was typed so far or in one within it, as it would be typed."""
    typed = incomplete.rpartition("/")[0] + "/" if "/" in incomplete else ""
    for entry in _sorted(typed or "."):
        if fits(Path(entry.path)):
            yield f"{typed}{entry.name}"
        elif entry.is_dir():
            yield from (
                f"{typed}{entry.name}/{one.name}"
                for one in _sorted(entry.path)
                if fits(Path(one.path))
            )


def _sorted(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []
    return sorted(found, key=lambda entry: entry.name)
