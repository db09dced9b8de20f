"""What a network takes in of a record: how it is read, and how records become a batch.

A task says which kind of inputs it has (``TaskSpec.inputs``); everything else asks the inputs of the loaded
model, and so knows nothing of tokens. ``Texts`` are those of the tasks that read text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import nn

from ..errors import ModelError
from ..tasks.spec import TaskSpec
from .batches import pad_rows
from .invented import frame, invented_texts
from .network import Batch
from .reading.cells import is_whole
from .reading.names import clean_text
from .tokenizer import load_tokenizer, state_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..job import Job, ModelSpec
    from .tasks.task import Answer

_CHARACTERS_A_TOKEN = 64
_FEWEST_CHARACTERS = 4096


class Inputs(Protocol):
    """Rows of numbers, one for each record, and how they become what a network takes in.

    A row is an array of one axis, as long as the record is; ``model.max_length`` bounds it.

    Assumption: a record's row, and what the network sees of it in a batch, depend on that record alone. The
    probe of a model tests it, on invented rows.

    A class of your own that derives from this gets what has a body here.
    """

    dtype: ClassVar[type[Any]]
    """Of rows, as they are kept: ``numpy.int32``, ``numpy.int64``, ``numpy.float32`` or ``numpy.uint8``."""
    varied: ClassVar[bool] = False
    """Whether rows differ in length, so that some are padded; else all are equally long."""
    targets: ClassVar[bool] = False
    """Whether ``collate`` gives "targets" for losses, too, which the base model does not take."""

    @property
    def unknown(self) -> int | None:
        """The number that stands in rows for what the base model does not know, if there is one."""
        return None

    @property
    def numbers(self) -> int | None:
        """Of each row, if that does not follow from ``model.max_length``."""
        return None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """From the files of a base model; a ``ModelError`` for what cannot be used."""
        ...

    def as_asked(self, model: ModelSpec) -> Self:
        """The same, as a job's ``model`` section asks for them; a ``ModelError`` if that cannot be."""
        return self

    def with_labels(self, labels: Sequence[str]) -> Self:
        """The same, for records in which these labels stand."""
        return self

    def record(self, given: str) -> str:
        """The record that somebody asks about, as a column would say it; empty if it says nothing."""
        return clean_text(given)

    def told(self, record: str, answer: Answer, limit: int) -> Answer:
        """What an answer means in the record that was asked about; `limit`: as in `encode`."""
        return answer

    def encode(self, records: Sequence[str], limit: int, *, ends: bool = False) -> list[Any]:
        """A row of at most `limit` numbers for each record, which is the cleaned text of its column.

        ends: the row says where the record ends, if there is room. An empty row is a record that says
        nothing. An exception means that some record cannot be read: each is then tried by itself.
        """
        ...

    def fault(self, record: str, limit: int) -> str:
        """Why `encode` makes no row of a record, as a noun; empty if it does, or that is not known."""
        return ""

    def collate(
        self, rows: Sequence[np.ndarray], device: torch.device, length: int | None
    ) -> Batch:
        """What the network takes in, by the names of its arguments: padded to `length`, or to the longest."""
        ...

    def invented(self, lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
        """Invented rows, of these lengths if they may differ; the same for the same seed."""
        ...

    def costliest(self, largest: int) -> tuple[list[str], float]:
        """Invented records that take long to be made rows, and how many times as long larger ones take.

        largest: how large a record may be, in what an owner declares (pixels). None, if the size of a record
        makes no difference.
        """
        return [], 1.0

    def odd(self, row: np.ndarray) -> list[np.ndarray]:
        """Rows made from an invented one that a head of an architecture's own may take for others."""
        return []

    def padded_otherwise(self, batch: Batch) -> Batch:
        """The batch with other numbers in its padding."""
        return batch

    def fit(self, backbone: nn.Module, base: str) -> None:
        """Settle what model and inputs must agree on; a ``ModelError`` if they cannot."""
        ...

    def state(self) -> str:
        """All that determines what a network sees of rows, besides the job: features are kept under it."""
        ...

    def save(self, folder: Path, job: Job) -> None:
        """Write, next to a tuned model, what is needed to read records as in training."""
        return

    def card(self, job: Job) -> dict[str, Any]:
        """How records are read, for ``umbel.json``."""
        return {}


def inputs_for(
    kind: TaskSpec, folder: Path, model: ModelSpec, labels: Sequence[str] | None = None
) -> Inputs:
    """What a task reads, for the base model in `folder`, as a job's `model` section and its `labels` say."""
    module, _, name = kind.inputs.partition(":")
    found: Inputs = getattr(import_module(module), name).load(folder)
    return found.as_asked(model).with_labels(labels or ())


def inputs_state(kind: TaskSpec, model: ModelSpec, labels: Sequence[str] | None = None) -> str:
    """Which code reads the records of a task, and what a job asks of it: rows are kept under it.

    The code is not imported for that.
    """
    module = kind.inputs.partition(":")[0]
    if module == __name__:
        return ""  # of this version of Umbel
    origin = getattr(find_spec(module), "origin", None)
    code = Path(origin).read_bytes() if origin else b""
    asked = f"{model.image_size} {model.template} {model.answers}"
    named = f" {list(labels or ())}" if kind.reads == "spans" else ""
    return f"{kind.inputs} {hashlib.sha256(code).hexdigest()} {asked}{named}"


def beginning(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """What is tokenised of a text: 64 characters for each of `max_length` tokens, and at least 4096.

    It is the end of the text if the tokenizer keeps ends. All code that makes tokens of texts cuts them here
    first: one text, one answer, in a time that does not grow with its length.
    """
    most = most_characters(max_length)
    return text[-most:] if tokenizer.truncation_side == "left" else text[:most]


def most_characters(max_length: int) -> int:
    """How many characters of a text are read, for this many tokens."""
    return max(_FEWEST_CHARACTERS, _CHARACTERS_A_TOKEN * max_length)


class Texts(Inputs):
    """Token ids, and a mask that separates them from padding."""

    dtype: ClassVar[type[Any]] = np.int32
    varied = True
    targets = False
    penalty: ClassVar[float] = 1.2
    """On tokens that came before, as a text goes on (Keskar et al. 2019, section 4.1): small models repeat
    themselves."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(load_tokenizer(folder))

    @property
    def ends(self) -> list[int]:
        """Tokens after which a text is over, beside those that the base model names."""
        found = self.tokenizer.eos_token_id
        return [] if found is None else [int(found)]

    @property
    def unknown(self) -> int | None:
        """None also if the same token ends every text."""
        found: int | None = self.tokenizer.unk_token_id
        return None if found == self.tokenizer.eos_token_id else found

    def encode(self, records: Sequence[str], limit: int, *, ends: bool = False) -> list[Any]:
        """Only the ``beginning`` of a text is read, so that none takes longer because of its length."""
        read = [beginning(text, self.tokenizer, limit) for text in records]
        found = self.tokenizer(read, truncation=True, max_length=limit)["input_ids"]
        return [self._ended(tokens, limit) if ends else tokens for tokens in found]

    def prompt(self, given: str, limit: int) -> tuple[list[int], list[int]]:
        """The tokens that stand before every text, and those of a text that goes on; none if it says nothing.

        What the tokenizer puts behind a text would end it. Of a prompt the end decides.
        """
        text = clean_text(given, goes_on=True)
        if not text.strip() or not is_whole(text):
            return [], []
        read = self.tokenizer(text[-most_characters(limit) :], add_special_tokens=False)
        return frame(self.tokenizer)[0], list(read["input_ids"])

    def ids(self, row: np.ndarray) -> np.ndarray:
        """The tokens of a row, int[tokens]."""
        return row

    def _ended(self, tokens: list[int], limit: int) -> list[int]:
        """With the end-of-text token, for language models whose tokenizer appends none."""
        end = self.tokenizer.eos_token_id
        wanted = end is not None and tokens and len(tokens) < limit and tokens[-1:] != [end]
        return [*tokens, end] if wanted else tokens

    def collate(
        self, rows: Sequence[np.ndarray], device: torch.device, length: int | None
    ) -> Batch:
        return pad_rows(rows, int(self.tokenizer.pad_token_id), device, length)

    def invented(self, lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
        return invented_texts(self.tokenizer, lengths, seed)

    def odd(self, row: np.ndarray) -> list[np.ndarray]:
        """A text may end with the padding token, for which some heads search."""
        end, ending = len(frame(self.tokenizer)[1]), row.copy()
        ending[-end - 1] = self.tokenizer.pad_token_id
        return [ending]

    def padded_otherwise(self, batch: Batch) -> Batch:
        ids, (other,) = batch["input_ids"], invented_texts(self.tokenizer, [64], 3)
        drawn = torch.from_numpy(np.resize(other, ids.shape)).to(ids.device)
        return batch | {"input_ids": torch.where(batch["attention_mask"] == 0, drawn, ids)}

    def fit(self, backbone: Any, base: str) -> None:
        """One padding token for both, in the whole configuration and in its part for text, if it has one;
        and an embedding for every token."""
        config: Any = backbone.config
        for part in {id(c): c for c in (config, config.get_text_config())}.values():
            part.pad_token_id = self.tokenizer.pad_token_id
        try:
            table = backbone.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            table = None
        if not isinstance(table, nn.Embedding):
            return  # such as hashed characters; the probe looks at every table that is read
        pad, highest = int(self.tokenizer.pad_token_id), max(self.tokenizer.get_vocab().values())
        if max(highest, pad) >= table.num_embeddings:
            which = "token" if highest >= table.num_embeddings else "padding token"
            number = highest if which == "token" else pad
            raise ModelError(
                f"{base} has {table.num_embeddings} token embeddings, and its tokenizer a {which} "
                f"with the number {number}: they do not belong together. Download the model again, "
                "with its own tokenizer."
            )

    def state(self) -> str:
        return f"padding token {self.tokenizer.pad_token_id}"

    def tokenizer_state(self) -> str:
        """All that determines the tokens."""
        return f"{state_of(self.tokenizer)} {self.tokenizer.eos_token_id}"

    def save(self, folder: Path, job: Job) -> None:
        """The tokenizer pads on the same side, with the same token, and cuts as it did."""
        tokenizer = self.tokenizer
        if tokenizer.is_fast:
            # Otherwise the saved tokenizer would keep what the last call set.
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["truncation_side"] = tokenizer.truncation_side
        if not job.kind.continues:
            settings |= {"model_max_length": job.model.max_length, "padding_side": "right"}
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def card(self, job: Job) -> dict[str, Any]:
        language = job.kind.continues
        # Of a prompt the end is read: the continuation follows from it.
        cut = "start" if language or self.tokenizer.truncation_side == "left" else "end"
        return {
            "pad_token_id": int(self.tokenizer.pad_token_id),
            "characters": most_characters(job.model.max_length),
            "cut": cut,
            "first": frame(self.tokenizer)[0] if language else [],
        }
