"""What a model answers to a few dialogues before training and after it, beside the answers that they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..wire.arrays import Arrays
from .continuation import Continuation
from .model import Learner
from .reading.dialogues import messages_of, record_of
from .rouge import rouge_l

_NEW_TOKENS = 32


def sample_answers(
    learner: Learner, records: Sequence[str], before: Arrays, after: Arrays
) -> list[dict[str, Any]]:
    """For each record (a dialogue that ends with an answer): what was asked last, that answer, and what the
    model says in its place before and after, with its ROUGE-L.

    The learner has the settings of a continuation afterwards, and is no longer to be exported.
    """
    continuation = Continuation(learner)
    learner.network.eval()
    found: list[dict[str, Any]] = []
    for record in records:
        *asked, answer = messages_of(record)
        found.append({"asked": asked[-1].content, "answer": answer.content})
    for name, arrays in (("before", before), ("after", after)):
        learner.network.load(arrays)
        for record, one in zip(records, found, strict=True):
            said = continuation.of(record_of(messages_of(record)[:-1]), _NEW_TOKENS) or ""
            one[name] = {"said": said.strip(), "rouge_l": rouge_l(one["answer"], said)}
    return found
