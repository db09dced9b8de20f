"""What all sections of a job have in common, and the names that jobs use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

TaskName = Literal["text-classification", "causal-lm"]
AdapterName = Literal["lora", "head", "full"]
UnitName = Literal["example", "group", "client", "none"]

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    # Strict: TOML has types, and `rounds = true` is a slip that must not become one round.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
