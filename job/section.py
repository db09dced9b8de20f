"""What all sections of a job have in common, and the names that jobs use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from ..tasks.spec import BUILT_IN, known


def _known_task(name: str) -> str:
    if name not in BUILT_IN and name not in (names := known()):
        *others, last = map(repr, names)
        choice = f"{', '.join(others)} or {last}"
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": choice}
        )
    return name


if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Annotated[
        str,
        AfterValidator(_known_task),
        WithJsonSchema({"enum": list(BUILT_IN), "type": "string"}),
    ]
AdapterName = Literal["lora", "head", "full"]
QuantizationName = Literal["nf4", "int8"]
UnitName = Literal["example", "group", "client", "none"]

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    # Strict: TOML has types, and `rounds = true` is a slip that must not become one round.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)
