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
    given = dict(dotted(sections, whole=PATHS))
    tables = {key: table_file(given[key]) for key in PATHS if _is_in_memory(given.get(key))}
    if not isinstance(source, Job | str | Path):
        tables = {k: path for k, path in table_files(source).items() if k not in given} | tables
    job = _job(source, given | {key: str(path) for key, path in tables.items()}, listener)
    for key, path in tables.items():
        _check_columns(path, job, key)
    return job


def _job(source: Any, given: dict[str, Any], listener: Listener | None) -> Job:
    """`given` holds the path of every table."""
    if isinstance(source, Job):
        return source.changed(given) if given else source
    if isinstance(source, str | Path) and Path(source).suffix == ".toml":
        return Job.compose(Path(source), given)
    from ..simulations.first import first_job

    usual = {"data.path": str(source)} if isinstance(source, str | Path) else {"name": "table"}
    return first_job(usual | given, listener=listener)


def _is_in_memory(value: Any) -> bool:
    return value is not None and not isinstance(value, str | Path)


def _check_columns(path: Path, job: Job, key: str) -> None:
    """Refuse a table without the job's columns: later it is a file of the cache, whose name says nothing."""
    from ..learning.reading.arrow_files import arrow_schema
    from ..learning.reading.columns import check_columns
    from ..learning.reading.nested import schema_paths
    from ..simulations.partition import parse_scheme

    schema, data = arrow_schema(path), job.data
    wanted = [data.text_column, parse_scheme(job.simulation.partition).column]
    if job.kind.labelled:
        wanted.append(data.label_column)
    if job.kind.reads == "dialogues":
        wanted.append(data.answer_column)
    if key == "data.path" or job.per_group:
        wanted.append(data.group_column)
    found = dict.fromkeys([*schema.names, *schema_paths(schema)])
    check_columns("The table", [name for name in wanted if name], list(found))
