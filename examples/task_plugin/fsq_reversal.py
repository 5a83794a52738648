"""A task kind of one's own: a word in, the same word backwards out."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks import Candidate, Columns, Data, Part, Row, RowError, Task, TaskConfig


class ReversalConfig(TaskConfig):
    """Options in a round file, with their defaults; the description is what `fsq tasks` shows."""

    kind: Literal["reversal"] = "reversal"
    data: Annotated[Data, Field(description="Words, one a line (txt) or in a column `word`.")]
    train: Annotated[int, Field(ge=1, description="Number of training examples.")] = 200
    val: Annotated[int, Field(ge=1, description="Number of validation examples.")] = 50
    max_prompt_tokens: Annotated[int, Field(ge=1, description="Longest prompt, in tokens.")] = 64
    max_answer_tokens: Annotated[int, Field(ge=1, description="Longest answer, in tokens.")] = 32
    longest: Annotated[int, Field(ge=2, description="Longest word, in letters.")] = 12


class Reversal(Task[ReversalConfig]):
    """ "Word: abc", "Backwards:"; the answer has one token a letter."""

    Config = ReversalConfig
    summary = "write a word backwards; answer: its letters"
    columns = Columns(required={"word": ("word", "text")})
    advice: ClassVar = {"word_too_long": "raise longest"}

    def candidate(self, row: Row) -> Candidate:
        word = row.text("word").strip().lower()
        if not (word.isascii() and word.isalpha()):
            raise RowError("not_letters")  # drops the row; the build report counts the reason
        if len(word) > self.config.longest:
            raise RowError("word_too_long")
        return Candidate(
            content=word,  # rows of equal content are never used twice
            prompt=(Part("Word: "), Part(word, symbols=True), Part("\nBackwards:")),
            answer=word[::-1],
            choices=26,  # symbols that an answer position can take: the uniform guess is 1/26
        )
