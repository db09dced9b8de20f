"""One text for one value: what is hashed, signed or compared as JSON."""

from __future__ import annotations

import json
from typing import Any


def canonical_json(values: Any) -> str:
    """Sorted keys, no white space, ASCII: equal for equal values, whoever wrote them and in which order."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
