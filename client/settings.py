"""client.toml: what an owner says of its own data and machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from ..consortium import MemberName
from ..documents import Document

_TEMPLATE = """\
# This owner's settings. Nothing in this file leaves this machine but the name.

# The name under which the operator admitted this owner. It is part of every signature: to change
# it, make a new folder and send its request.
name = {name}

[data]
# CSV, TSV, JSONL or Parquet file, or a Hugging Face dataset saved to disk. A relative path starts
# at this file's folder. A job says what to learn, this says from what: a job's own path is not used.
path = {path}

# Held-out records. Without them, the job's share is split off the records above.
{test_path}

# Columns of the data, where this owner calls them otherwise than the jobs do.
{text_column}
{label_column}

[server]
# Where the server is, as HOST:PORT, if not where consortium.json says (a proxy, say). The server's
# certificate must still be valid for the host that stands here.
# address = "umbel.example.org:9443"
"""


def _check_address(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16) or "/" in address:
        raise ValueError("give HOST:PORT, such as umbel.example.org:9443")
    return address


class DataSettings(Document):
    """[data]: what this owner's agent learns from."""

    path: Annotated[str, Field(min_length=1)]
    test_path: Annotated[str, Field(min_length=1)] | None = None
    text_column: str | None = None
    label_column: str | None = None


class ServerSettings(Document):
    """[server]: how to reach it."""

    address: Annotated[str, AfterValidator(_check_address)] | None = None


class Settings(Document):
    """client.toml."""

    name: MemberName
    data: DataSettings
    server: ServerSettings = ServerSettings()


def settings_text(
    name: str,
    data: Path,
    test_data: Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> str:
    """A client.toml with comments; what is not given stands in it as a comment."""
    given = {"text_column": text_column, "label_column": label_column}
    given["test_path"] = None if test_data is None else str(test_data.resolve())
    examples = {"text_column": "text", "label_column": "label", "test_path": "held-out.csv"}
    lines = {
        key: f"# {key} = {_toml(examples[key])}" if value is None else f"{key} = {_toml(value)}"
        for key, value in given.items()
    }
    return _TEMPLATE.format(name=_toml(name), path=_toml(str(data.resolve())), **lines)


def _toml(text: str) -> str:
    import tomli_w

    return tomli_w.dumps({"value": text}).strip().removeprefix("value = ")
