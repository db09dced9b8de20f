"""From a job, a job file, a data file or a table in memory to a job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..job import Job, dotted
from .in_memory import table_file, table_files

if TYPE_CHECKING:
    from ..server.run import Listener

PATHS = ("data.path", "data.test_path")
"""Keys of a job whose values may be tables."""


def as_job(source: Any, sections: Mapping[str, Any], listener: Listener | None = None) -> Job:
    """A job from `source`, changed by `sections`.

    source: a ``Job``; a path that ends in .toml, a job file; any other path, the data of a job; else
    tables: see ``table_files``. Without a job file the recipe chooses the values that `sections` do not set.
    sections: ``training={"rounds": 3}``, or dotted keys, ``**{"training.rounds": 3}``. ``data.path`` and
    ``data.test_path`` may be tables too.
    listener: is told while the data are read for the recipe.
    Raises ``JobError`` or ``DataError``.
    """
    given = dict(dotted(sections))
    in_memory = {key: table_file(given[key]) for key in PATHS if _is_in_memory(given.get(key))}
    given |= _named(in_memory)
    if isinstance(source, Job):
        return source.changed(given) if given else source
    if isinstance(source, str | Path) and Path(source).suffix == ".toml":
        return Job.compose(Path(source), given)
    from ..simulations.first import first_job

    if isinstance(source, str | Path):
        return first_job({"data.path": str(source)} | given, listener=listener)
    in_memory = table_files(source) | in_memory
    job = first_job({"name": "table"} | _named(in_memory) | given, listener=listener)
    for path in in_memory.values():
        if str(path) in (job.data.path, job.data.test_path):
            _check_columns(path, job)
    return job


def _is_in_memory(value: Any) -> bool:
    return value is not None and not isinstance(value, str | Path)


def _named(paths: Mapping[str, Path]) -> dict[str, str]:
    return {key: str(path) for key, path in paths.items()}


def _check_columns(path: Path, job: Job) -> None:
    """Refuse a table without the job's columns: later it is a file of the cache, whose name says nothing."""
    from ..learning.reading.arrow_files import arrow_schema
    from ..learning.reading.columns import check_columns
    from ..learning.reading.nested import schema_paths

    schema = arrow_schema(path)
    wanted = [job.data.text_column, *([job.data.label_column] if job.kind.labelled else [])]
    found = dict.fromkeys([*schema.names, *schema_paths(schema)])
    check_columns("The table", [name for name in wanted if name], list(found))
