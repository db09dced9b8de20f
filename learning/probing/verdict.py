"""What a probe found of a loaded model: under which padding its texts leave each other alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Padding = Literal["longest", "max_length"]


@dataclass(frozen=True)
class Verdict:
    """`padding` is the least that makes texts independent; None if they are not, however padded.

    `reason` says what was seen if the padding is not "longest". Both come from invented texts, so
    they tell nothing of any record.
    """

    padding: Padding | None
    reason: str = ""

    def allows(self, padding: Padding) -> bool:
        """Whether texts are independent under this padding."""
        return self.padding == "longest" or self.padding == padding


INDEPENDENT = Verdict("longest")
