"""A look at a task kind on some data: the build report and one example as text."""

from __future__ import annotations

from typing import NamedTuple

from model.tokenizers import get_tokenizer
from tasks import BuildReport, DataUnavailable, TaskConfig, TaskError, build, get_kind
from tasks.errors import blaming_kind
from worker.preparation import InputProblem


class Sample(NamedTuple):
    """What was built, and its first validation example as people read it."""

    report: BuildReport
    example: str


def sample(config: TaskConfig, tokenizer_name: str) -> Sample:
    """Builds the examples of a config; raises InputProblem."""
    tokenizer = get_tokenizer(tokenizer_name)
    try:
        _, val, report = build(config, tokenizer)
        with blaming_kind(config.kind, "to show an example"):
            return Sample(report, str(get_kind(config.kind)(config).show(val[0], tokenizer)))
    except TaskError as error:
        raise InputProblem((), str(error), is_infrastructure=isinstance(error, DataUnavailable)) from error
