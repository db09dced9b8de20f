"""Dialogues as a language model takes them in: rendered by a chat template, with the answers marked.

A row is the tokens of a dialogue, in which a token of an answer is kept as -1 - id (``mark``). An answer
begins behind what the template puts before it, and ends with the first special token behind its text: exactly
what a model has to say when it is asked. So the loss is that of answers alone, and the rest is only read.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from ..errors import DataError, ModelError
from .batches import pad_rows
from .chat_template import check_rendering, rendered, with_template
from .hugging_face import first_line
from .inputs import Texts, most_characters
from .invented import invented_texts
from .network import Batch
from .reading.dialogues import (
    ASSISTANT,
    MOST_CHARACTERS,
    MOST_MESSAGES,
    SYSTEM,
    USER,
    Message,
    messages_of,
    opening,
    record_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..job import Job, ModelSpec

MOST_TURNS = 64
"""Messages of a dialogue that a row is made of, beside the system message: each answer among them is
rendered twice."""
TOO_LONG = "a last question and answer beyond model.max_length"
SPECIAL = "the text of a special token of the base model"
TEMPLATE = "a chat template that fails on them"
_NOT_LEARNED = -100
_WORDS = (1, 4, 16, 64, 256)
_TRIED = ("An example.", "an example", "42 of them.", '"Yes."', "(none)", "- one")
"""Answers that begin with a letter, a digit, or a sign: each could be one token with what stands before."""


class Dialogues(Texts):
    """Rows of dialogues (``reading.dialogues``), and "targets": the tokens of answers, else -100.

    A dialogue of more than `limit` tokens or ``MOST_TURNS`` loses its first turns, question and answer
    together; the system message stays. If the last question and answer alone are longer, the row is empty:
    the record is left out.

    Guarantee: a row follows from its own record. It is made only if, for every answer that is learned, the
    tokens of what comes before are those that a model sees when it is asked for that answer, and those of the
    answer itself do not change if more is said, hold the whole answer, and end with the one token that ends
    all answers (no template is taken at its word). Whatever a record holds, no more than ``most_characters``
    and ``MOST_TURNS`` of it are rendered, and that no more than ``MOST_TURNS + 6`` times.

    Assumptions: those of ``chat_template``.
    """

    targets = True
    penalty = 1.0

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        self._last_alone, self._ends = False, super().ends
        added = {
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        }
        self.special = sorted({*added, *tokenizer.all_special_tokens})
        """What no message may hold as text: it would end its turn, or begin another."""
        ids: Any = tokenizer.convert_tokens_to_ids(self.special)
        # A letter that the vocabulary lacks ends nothing.
        self._special_ids = {*ids} - {self.unknown}

    def as_asked(self, model: ModelSpec) -> Self:
        """With the job's template, after a look at whether it says where an answer begins and ends."""
        found = copy.copy(self)
        found._last_alone = model.answers == "last"
        found.tokenizer.chat_template = with_template(self.tokenizer, model.template, model.base)
        found._ends = []
        for answer in _TRIED:
            try:
                said = [Message(USER, "What is this?"), Message(ASSISTANT, answer)]
                row = found._row(said, 10**6)
                check_rendering(found.tokenizer, said)
            except Exception as error:
                raise ModelError(
                    f"{model.base}: its chat template cannot be used for the answer {answer!r}: "
                    f'{first_line(error)} Set model.template = "plain", or take another base model.'
                ) from None
            found._ends = [int(self.ids(row)[-1])]
        return found

    @property
    def ends(self) -> list[int]:
        """The token that ends an answer."""
        return self._ends

    def record(self, given: str) -> str:
        """A dialogue that waits for an answer; empty for one that nobody can answer."""
        try:
            return opening(given)
        except DataError:
            return ""

    def encode(self, records: Sequence[str], limit: int, *, ends: bool = False) -> list[Any]:
        return [self._row(messages_of(record), limit) for record in records]

    def fault(self, record: str, limit: int) -> str:
        try:
            return "" if len(self._row(messages_of(record), limit)) else TOO_LONG
        except _SpecialText:
            return SPECIAL
        except Exception:  # a template raises what it likes
            return TEMPLATE

    def prompt(self, given: str, limit: int) -> tuple[list[int], list[int]]:
        """The tokens from which an answer follows, all of which may be passed over for later ones."""
        record = self.record(given)
        messages = messages_of(record) if record else []
        if not messages:
            return [], []
        try:
            kept, tokens = self._fitting(messages, limit, answers=True)
        except Exception:  # a template may refuse what it cannot say, such as a system message
            return [], []
        return [], [] if self._says_special(kept) else tokens

    def _row(self, messages: list[Message], limit: int) -> np.ndarray:
        kept, tokens = self._fitting(messages, limit, answers=False)
        if self._says_special(kept):
            raise _SpecialText(
                "a message holds the text of a special token, such as the end of a turn"
            )
        row = np.asarray(tokens, np.int32)
        answers = [place for place, one in enumerate(kept) if one.role == ASSISTANT]
        for place in answers[-1:] if self._last_alone else answers:
            before = self._tokens(kept[:place], answers=True)
            end = self._end_behind(tokens, len(before))
            if end is None:
                raise ValueError("its answers end without a special token.")
            said = (
                tokens if place == answers[-1] else self._tokens(kept[: place + 1], answers=False)
            )
            if tokens[: len(before)] != before or tokens[:end] != said[:end]:
                raise ValueError(
                    f"what it makes of the first {place + 1} messages is not how it begins with more."
                )
            if not self._holds(tokens[len(before) : end], kept[place].content):
                raise ValueError(
                    "what a model would learn to say is not the answer: where the answer begins is not where "
                    "the template ends if it is asked for one (add_generation_prompt)."
                )
            if self._ends and tokens[end - 1] not in self._ends:
                raise ValueError("its answers end with different tokens.")
            row[len(before) : end] = mark(row[len(before) : end])
        return row

    def _holds(self, tokens: Sequence[int], answer: str) -> bool:
        """Whether tokens say an answer, whatever blanks they put into it."""
        said = _without_blanks(str(self.tokenizer.decode([*tokens])))
        if _without_blanks(answer) in said:
            return True
        known = self.tokenizer(answer, add_special_tokens=False)["input_ids"]  # of it to the model
        return _without_blanks(str(self.tokenizer.decode(known))) in said

    def _end_behind(self, tokens: Sequence[int], start: int) -> int | None:
        """Behind the first special token from a place on; None if there is none."""
        for place in range(start, len(tokens)):
            if tokens[place] in self._special_ids:
                return place + 1
        return None

    def _fitting(
        self, messages: list[Message], limit: int, *, answers: bool
    ) -> tuple[list[Message], list[int]]:
        """As many of the last turns as fit into `limit` tokens, and their tokens; none if none does.

        Only the last ``MOST_TURNS`` within ``most_characters`` are looked at.
        """
        system = messages[:1] if messages[0].role == SYSTEM else []
        turns = messages[len(system) :]
        starts = [at for at in range(0, len(turns), 2) if len(turns) - at <= MOST_TURNS]
        left = most_characters(limit) - sum(len(one.content) for one in system)
        sizes = np.cumsum([len(one.content) for one in turns][::-1])[::-1]
        starts = [at for at in starts if sizes[at] <= left]
        fewest, most = 0, len(starts)  # how many of the first turns are left out, by halving
        best: tuple[list[Message], list[int]] = [], []
        while fewest < most:
            middle = fewest if not best[0] and fewest == 0 else (fewest + most) // 2
            kept = [*system, *turns[starts[middle] :]]
            tokens = self._tokens(kept, answers=answers)
            if len(tokens) <= limit:
                best, most = (kept, tokens), middle
            else:
                fewest = middle + 1
        return best

    def _tokens(self, messages: list[Message], *, answers: bool) -> list[int]:
        """Of a dialogue that ends with an answer, those up to its end."""
        text = rendered(self.tokenizer, messages, answers=answers)
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not answers:
            last = next((n for n, token in enumerate(found[::-1]) if token in self._special_ids), 0)
            found = found[: len(found) - last]
        return found

    def _says_special(self, messages: Sequence[Message]) -> bool:
        return any(special in one.content for one in messages for special in self.special)

    def ids(self, row: np.ndarray) -> np.ndarray:
        return np.where(row < 0, mark(row), row)

    def collate(
        self, rows: Sequence[np.ndarray], device: torch.device, length: int | None
    ) -> Batch:
        pad = int(self.tokenizer.pad_token_id)
        batch = pad_rows([self.ids(row) for row in rows], pad, device, length)
        learned = [np.where(row < 0, mark(row), _NOT_LEARNED) for row in rows]
        targets = pad_rows(learned, _NOT_LEARNED, device, length)["input_ids"]
        return batch | {"targets": targets}

    def invented(self, lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
        """Random tokens, the second half of which is an answer."""
        found = invented_texts(self.tokenizer, lengths, seed)
        for row in found:
            row[len(row) // 2 :] = mark(row[len(row) // 2 :])
        return found

    def card(self, job: Job) -> dict[str, Any]:
        dialogue = {
            "special": self.special,
            "most_turns": MOST_TURNS,
            "most_messages": MOST_MESSAGES,
            "most_characters": MOST_CHARACTERS,
            "penalty": self.penalty,
        }
        return super().card(job) | {"first": [], "dialogue": dialogue}

    def costliest(self, largest: int) -> tuple[list[str], float]:
        """As many messages, and characters, as are read; the last, which are rendered, from short to long."""
        found: list[str] = []
        for words in _WORDS:
            last = "a " * words
            first = "b" * ((MOST_CHARACTERS - MOST_TURNS * len(last)) // (largest - MOST_TURNS))
            contents = [first] * (largest - MOST_TURNS) + [last.strip()] * MOST_TURNS
            found.append(
                record_of(
                    [Message((USER, ASSISTANT)[n % 2], one) for n, one in enumerate(contents)]
                )
            )
        return found, 1.0


class _SpecialText(ValueError):
    """A message holds the text of a special token."""


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def mark(tokens: Any) -> Any:
    """Of ids, what stands for them in an answer, and the other way round."""
    return -1 - tokens
