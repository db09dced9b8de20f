"""client.toml: what an owner says of its own data and machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ..consortium.card import MemberName, check_host
from ..errors import DataError, PlanRefused
from ..job import Job
from ..learning.reading.picture_limits import LARGEST_PICTURE, MOST_PIXELS
from ..storage.documents import Document, listed, toml_value
from ..tasks.spec import Reads

if TYPE_CHECKING:
    from ..learning.reading.layout import Layout

DEFAULT_SHARE = 0.8

_TEMPLATE = """\
# This owner's settings. Of this file only the name leaves this machine, and those parts of [data]
# that are marked as told.

# The name under which the operator admitted this owner. It is part of every signature: to change
# it, make a new folder and send its request.
name = {name}

[data]
# What jobs may ask of this owner's data. Jobs name what they want to learn; which records, columns
# and classes a job sees, and which records are held out, is set only here.

# CSV, TSV, JSON, Excel (.xlsx), Parquet or Feather file, or a Hugging Face dataset saved to disk. A
# relative path starts at this file's folder.
path = {path}

# How CSV and JSON files are written, if not as UTF-8 with quotes that are doubled within quotes:
# "cp1252", "gb18030", ...; "backslash" or "none". Set here, so that no record decides how others are read.
{encoding}
{quoting}

# Sheet of an Excel workbook, if not the first (hidden ones apart) with the columns below.
{sheet}

# Held-out records in a separate file. Without it they are split off the file above, by a keyed
# hash under the secret in split.key, so that nobody but this owner can choose which ones they are.
{test_path}

# Share of the file above to train on; told to the operator. The rest is held out.
training_share = {training_share}

# What text_column holds: "texts"; "spans", which are texts in which label_column marks parts (lists of
# spans, or of words and their tags); "dialogues", which are lists of messages, or with answer_column a
# question and its answer; or "pictures", which may also be paths of their files, beside the file above. A
# folder of pictures has the columns "image" and "label" (the name of the folder around a picture). Pictures
# of more than largest_picture pixels are left out without notice. What is slow to read shows in a time: the
# first answer of a run leaves when the published number of pictures, all as large as this, could have been
# read; or of dialogues or spans, all of the slowest kind.
reads = {reads}
{largest_picture}

{answer_column}

# Column with the text; column with the class, and all classes that a job may name. Records with
# another class, or without text, are left out without notice. The classes are told to the operator.
# A record's class may differ from one of them in case, width, blanks or leading zeros.
text_column = {text_column}
{label_column}
{labels}
# Other names of these classes in the file, not told to anyone:
{spellings}

# Column of what records have in common: patient, customer, document. All records of one value are
# either trained on or held out.
{group_column}

# What the published size counts and jobs must protect: "record" or "group". With "group" jobs must
# have privacy.unit = "group", and at most records_per_group records of a group are used.
unit = {unit}
records_per_group = {records_per_group}

# The agent takes part in no job while the published size is below this. No size below 100 is
# published (100 stands for any size up to 100): 100 here asks for more than 100, less asks nothing.
smallest_size = {smallest_size}

[server]
# Where the server is, as HOST:PORT, if it differs from consortium.json. The server's certificate must
# still be valid for the host given here.
# address = "umbel.example.org:9443"
# The HTTP proxy on the way to the server, if one is needed: it must pass CONNECT. Proxies that
# the environment names (HTTPS_PROXY, ...) are not used for it.
# proxy = "http://proxy.example.org:3128"
"""


def _check_address(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16) or "/" in address:
        raise ValueError("give HOST:PORT, such as umbel.example.org:9443")
    check_host(host.removeprefix("[").removesuffix("]") if host.startswith("[") else host)
    return address


def _check_proxy(proxy: str) -> str:
    address = proxy.removeprefix("http://").removesuffix("/")
    if address == proxy or "@" in address:
        raise ValueError("give http://HOST:PORT of a proxy that asks for no password")
    _check_address(address)
    return f"http://{address}"


def _check_encoding(name: str) -> str:
    from ..learning.reading.encoding import codec_of

    try:
        codec_of(name)
    except DataError as error:
        raise ValueError(str(error)) from None
    return name


def _check_spellings(labels: list[str], spellings: dict[str, list[str]]) -> None:
    from ..learning.labels import class_reader

    if other := sorted(_domain(spellings) - _domain(labels)):
        raise ValueError(f"spellings names a class that is not in labels: {other[0]!r}")
    try:
        class_reader(labels, spellings)
    except DataError as error:
        raise ValueError(str(error)) from None


class DataSettings(Document):
    """[data]: what may be asked of this owner's data."""

    path: Annotated[str, Field(min_length=1)]
    test_path: Annotated[str, Field(min_length=1)] | None = None
    training_share: float | None = Field(None, gt=0, le=1)
    """Default: 0.8, or 1 if held-out records are a file of their own."""
    reads: Reads = "texts"
    largest_picture: int = Field(LARGEST_PICTURE, ge=16, le=MOST_PIXELS)
    """Pixels."""
    text_column: Annotated[str, Field(min_length=1)]
    answer_column: Annotated[str, Field(min_length=1)] | None = None
    label_column: Annotated[str, Field(min_length=1)] | None = None
    labels: list[str] | None = None
    spellings: dict[str, list[str]] | None = None
    """Other names of the classes."""
    group_column: Annotated[str, Field(min_length=1)] | None = None
    encoding: Annotated[str, AfterValidator(_check_encoding)] | None = None
    quoting: Literal["doubled", "backslash", "none"] | None = None
    sheet: Annotated[str, Field(min_length=1)] | None = None
    unit: Literal["record", "group"] = "record"
    records_per_group: int = Field(8, ge=2)
    smallest_size: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.label_column is None) != (self.labels is None):
            raise ValueError("label_column and labels go together: give both, or neither")
        if self.labels is not None and len(_domain(self.labels)) < (
            1 if self.reads == "spans" else 2
        ):
            raise ValueError(
                'labels must name at least two different classes (one, if reads = "spans")'
            )
        if self.labels is not None and len(_domain(self.labels)) < len(self.labels):
            raise ValueError("labels must name each class once")
        if self.spellings:
            _check_spellings(self.labels or [], self.spellings)
        if self.reads in ("pictures", "spans") and self.labels is None:
            raise ValueError(f'reads = "{self.reads}" needs a label_column and labels')
        if self.answer_column is not None and self.reads != "dialogues":
            raise ValueError('an answer_column needs reads = "dialogues"')
        if self.unit == "group" and self.group_column is None:
            raise ValueError('unit = "group" needs a group_column')
        if self.test_path is not None and self.training_share not in (None, 1.0):
            raise ValueError(
                "with a test_path all of path is used for training: set training_share = 1.0"
            )
        return self

    @property
    def layout(self) -> Layout:
        """How its files are written."""
        from ..learning.reading.layout import Layout

        return Layout(self.encoding, self.quoting, self.sheet)

    @property
    def largest(self) -> int:
        """How large a record may be, in pixels, messages or spans; 0 if its size makes no difference."""
        from ..learning.reading.dialogues import MOST_MESSAGES
        from ..learning.spans import MOST_SPANS

        found = {
            "pictures": self.largest_picture,
            "dialogues": MOST_MESSAGES,
            "spans": MOST_SPANS,
        }
        return found.get(self.reads, 0)

    @property
    def share(self) -> float:
        """How much of the data is trained on, with the default filled in."""
        default = DEFAULT_SHARE if self.test_path is None else 1.0
        return default if self.training_share is None else self.training_share

    @property
    def holds_out(self) -> bool:
        return self.test_path is not None or self.share < 1

    def check(self, owner: str, job: Job) -> None:
        """Refuse (``PlanRefused``) a job that asks for something else than was declared.

        The answer follows from declaration and job alone, never from records.
        """
        reasons = list(self._reasons(job))
        if reasons:
            raise PlanRefused(f"{owner}'s declaration (client.toml) {' · '.join(reasons)}")

    def _reasons(self, job: Job) -> Iterator[str]:
        if job.kind.reads != self.reads:
            yield f"declares {self.reads} (reads), but the job learns from {job.kind.reads}"
        if job.kind.labelled:
            if self.labels is None:
                yield "declares no classes, but the job learns classes"
            elif _domain(job.data.labels or ()) != _domain(self.labels) or len(
                job.data.labels or ()
            ) != len(self.labels):
                # A subset would let the job choose which records enter.
                yield (
                    f"declares the classes {listed(self.labels)}, but the job names "
                    f"{listed(job.data.labels or ()) or 'none'} (data.labels): they must be the "
                    "same, in any order"
                )
        if job.per_group and self.unit != "group":
            yield 'counts records, but the job has privacy.unit = "group"'
        if self.unit == "group" and job.privacy.unit == "example":
            yield 'protects groups of records, but the job has privacy.unit = "example", not "group"'


def _domain(labels: Iterable[str]) -> set[str]:
    from ..learning.reading.names import label_name

    return set(map(label_name, labels))


class ServerSettings(Document):
    """[server]: how to reach it."""

    address: Annotated[str, AfterValidator(_check_address)] | None = None
    proxy: Annotated[str, AfterValidator(_check_proxy)] | None = None
    """http://HOST:PORT"""


class Settings(Document):
    """client.toml."""

    name: MemberName
    data: DataSettings
    server: ServerSettings = ServerSettings()


def settings_text(name: str, data: DataSettings) -> str:
    """A client.toml with comments; what is not given stands in it as a comment."""
    values = data.model_dump() | {"training_share": data.share}
    values["largest_picture"] = data.largest_picture if data.reads == "pictures" else None
    examples = {
        "test_path": "held-out.csv",
        "encoding": "cp1252",
        "quoting": "none",
        "sheet": "Sheet1",
        "largest_picture": LARGEST_PICTURE,
        "answer_column": "completion",
        "label_column": "label",
        "labels": ["no", "yes"],
        "spellings": {"no": ["n", "negative"]},
        "group_column": "patient",
    }
    lines = {
        key: f"# {key} = {toml_value(example)}"
        if values[key] is None
        else f"{key} = {toml_value(values[key])}"
        for key, example in examples.items()
    }
    plain = {key: toml_value(value) for key, value in values.items() if key not in examples}
    return _TEMPLATE.format(name=toml_value(name), **plain, **lines)
