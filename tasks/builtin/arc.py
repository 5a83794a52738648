"""ARC: science questions with options, answered by the letter of one option (AI2; Clark et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.candidate import Candidate, Part
from tasks.config import (
    AnswerLimit,
    BatchSize,
    Data,
    HubData,
    PromptLimit,
    TaskConfig,
    TrainCount,
    ValCount,
)
from tasks.errors import RowError
from tasks.rows import Columns, Row
from tasks.task import Task

ARC_CHALLENGE = HubData(
    repo="allenai/ai2_arc", config="ARC-Challenge", train_split="train", val_split="validation"
)


class ArcConfig(TaskConfig):
    """Options of `arc`."""

    kind: Annotated[Literal["arc"], Field(description="arc")] = "arc"
    data: Annotated[Data, Field(description="Hub layout or AI2's own.")] = Data(hub=ARC_CHALLENGE)
    train: TrainCount = 1000
    val: ValCount = 200
    batch_size: BatchSize = 8
    max_prompt_tokens: PromptLimit = 512
    max_answer_tokens: AnswerLimit = 8
    order: Annotated[
        Literal["options_first", "q_first"], Field(description="Which comes first, options or question.")
    ] = "options_first"


class Arc(Task[ArcConfig]):
    """Options "L. text" sorted by label, the question, "Answer: "; the answer is one label.

    Reads the hub's layout (choices: {text: [...], label: [...]}) and AI2's (question: {stem, choices:
    [{text, label}]}), labels A-D or 1-4. Neither question nor options are ever cut.
    """

    Config = ArcConfig
    summary: ClassVar[str] = "multiple-choice science questions; answer: the letter of an option"
    columns = Columns(
        required={"question": ("question",), "key": ("answerKey",)},
        optional={"id": ("id",), "choices": ("choices",)},
    )

    def candidate(self, row: Row) -> Candidate:
        """Question and options in the configured order."""
        question, options = _question(row)
        label = row.text("key").strip()
        if label not in options:
            raise RowError("key_not_an_option")
        listed = "\n".join(f"{one}. {text}" for one, text in sorted(options.items()))
        blocks = [f"Options:\n{listed}\n\n", f"Question:\n{question}\n\n"]
        if self.config.order == "q_first":
            blocks.reverse()
        return Candidate(
            id=row.id,
            content=f"{question}\n{listed}",
            prompt=(*map(Part, blocks), Part("Answer: ")),
            answer=label,
            choices=len(options),
        )


def _question(row: Row) -> tuple[str, dict[str, str]]:
    """Question text and options by label, from either layout."""
    nested = row.get("question")
    if not isinstance(nested, Mapping):
        return row.text("question").strip(), _options(row.get("choices"))
    return Row(dict(nested)).text("stem").strip(), _options(nested.get("choices"))


def _options(choices: object) -> dict[str, str]:
    match choices:
        case {"text": [*texts], "label": [*labels]} if len(texts) == len(labels):
            pairs = list(zip(labels, texts, strict=True))
        case [*entries]:
            pairs = [_pair(entry) for entry in entries]
        case _:
            raise RowError("no_options")
    options = {
        label: text.strip()
        for label, text in pairs
        if isinstance(label, str)
        and len(label) == 1
        and label.isascii()
        and isinstance(text, str)
        and text.strip()
    }
    if len(options) != len(pairs) or len(options) < 2:
        raise RowError("bad_options")
    return options


def _pair(entry: object) -> tuple[object, object]:
    match entry:
        case {"label": label, "text": text}:
            return label, text
        case _:
            raise RowError("bad_options")
