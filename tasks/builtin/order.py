"""Where the question stands. One meaning for all kinds; the predecessor's names differ (docs/tasks.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

QuestionOrder = Annotated[
    Literal["q_first", "q_after"],
    Field(
        description="Where the question stands: before the notes or the context (q_first), so that they "
        "separate it from the answer, or after them (q_after), next to the answer."
    ),
]
