"""Values that are stored: immutable, exact, told apart by a digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Immutable, no unknown keys, no silent conversions, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Validates what `model_dump(mode="json")` gave."""
        return cls.model_validate_json(json.dumps(value))


def sha256_of(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no white space)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
