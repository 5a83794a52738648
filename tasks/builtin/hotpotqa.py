"""HotpotQA: questions over several Wikipedia paragraphs, answered in a few words (Yang et al. 2018)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.builtin.order import QuestionOrder
from tasks.candidate import Candidate, Cut, Part
from tasks.config import (
    AnswerLimit,
    BatchSize,
    Data,
    HubData,
    PromptFloor,
    PromptLimit,
    TaskConfig,
    TrainCount,
    ValCount,
)
from tasks.errors import RowError
from tasks.rows import Columns, Row
from tasks.task import Task

DISTRACTOR = HubData(
    repo="hotpotqa/hotpot_qa", config="distractor", train_split="train", val_split="validation"
)


class HotpotQAConfig(TaskConfig):
    """Options of `hotpotqa`."""

    kind: Annotated[Literal["hotpotqa"], Field(description="hotpotqa")] = "hotpotqa"
    data: Annotated[Data, Field(description="Hub layout or HotpotQA's own.")] = Data(hub=DISTRACTOR)
    train: TrainCount = 2048
    val: ValCount = 512
    batch_size: BatchSize = 2
    max_prompt_tokens: PromptLimit = 2048
    min_prompt_tokens: PromptFloor = 1024
    max_answer_tokens: AnswerLimit = 24
    order: QuestionOrder = "q_after"


class HotpotQA(Task[HotpotQAConfig]):
    """Context paragraphs "title: sentences", the question, "Answer:"; the answer is a space and a few words.

    Reads the hub's layout (context: {title: [...], sentences: [[...], ...]}) and HotpotQA's own (context:
    [[title, [sentence, ...]], ...]). Of a context that is too long the end stays, in both orders; the
    question is never cut.
    """

    Config = HotpotQAConfig
    summary: ClassVar[str] = "questions over Wikipedia paragraphs; answer: a few words of them, yes or no"
    columns = Columns(
        required={"question": ("question",), "answer": ("answer",), "context": ("context",)},
        optional={"id": ("id", "_id")},
    )

    def candidate(self, row: Row) -> Candidate:
        """Context and question in the configured order."""
        question, answer = _one_line(row.text("question")), _one_line(row.text("answer"))
        context = "\n\n".join(f"{title}: {text}" for title, text in _paragraphs(row.get("context")))
        asked = (Part(f"Question:\n{question}\n\n"),)
        told = (Part("Context:\n"), Part(context, cut=Cut.LEFT), Part("\n\n"))
        return Candidate(
            id=row.id,
            content=question,
            prompt=(*(asked + told if self.config.order == "q_first" else told + asked), Part("Answer:")),
            answer=f" {answer}",
            extractive=True,
        )


def _paragraphs(context: object) -> list[tuple[str, str]]:
    """Title and text of each paragraph that has text, from either layout."""
    match context:
        case None:
            raise RowError("no_context")
        case {"title": [*titles], "sentences": [*texts]} if len(titles) == len(texts):
            pairs = [_paragraph(pair) for pair in zip(titles, texts, strict=True)]
        case [*paragraphs]:
            pairs = [_paragraph(paragraph) for paragraph in paragraphs]
        case _:
            raise RowError("bad_context")
    told = [(title, text) for title, text in pairs if text]
    if not told:
        raise RowError("no_context")
    return told


def _paragraph(paragraph: object) -> tuple[str, str]:
    match paragraph:
        case [str(title), [*sentences]]:
            texts = [sentence for sentence in sentences if isinstance(sentence, str)]
            if len(texts) == len(sentences):
                return _one_line(title), _one_line("".join(texts))
    raise RowError("bad_context")


def _one_line(text: str) -> str:
    return " ".join(text.split())
