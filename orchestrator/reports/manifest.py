"""The manifest of experiments: every result with its figures, so that a document can be held against them.

A result is called as in the records' `cached_from`: round/task/stage/variant/seedN; the mean over the seeds of a
round is called the same without the seed. docs/reports.md describes the format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from orchestrator.errors import BadInput
from orchestrator.findings.records import key_of
from orchestrator.reports.effects import Effect, of_rounds
from orchestrator.reports.gathering import RoundResults

VERSION = 1
NUMBERS = (
    *("best_val_tok_acc", "best_val_loss", "best_val_seq_acc", "final_val_tok_acc", "baseline_val_tok_acc"),
    *("d_acc", "d_loss", "p_value", "n_val", "n_val_tokens", "steps", "tokens", "seconds"),
)

Figure = int | FiniteFloat | str


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RoundEntry(_Strict):
    """Where the records of a round are."""

    round: str
    state: str
    file: str = Field(description="As `fsq export -o` names it.")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    records: int


class Result(_Strict):
    """One run, or the mean over the runs of a round that differ in their seed only."""

    id: str
    fingerprint: str | None = None
    caveats: tuple[str, ...] = ()
    figures: dict[str, Figure]


class Manifest(_Strict):
    """Rounds and all of their results."""

    format: Literal["fsq-manifest"] = "fsq-manifest"
    version: Literal[1] = 1
    rounds: tuple[RoundEntry, ...]
    results: tuple[Result, ...]


def of(rounds: Sequence[RoundResults]) -> Manifest:
    """The manifest of these rounds, in their order."""
    entries = [
        RoundEntry(
            round=one.view.round,
            state=one.view.state,
            file=f"_{one.view.round}_records.jsonl",
            sha256=one.digest,
            records=len(one.lines),
        )
        for one in rounds
    ]
    results = [result for one in rounds for result in (*_runs(one), *_means(one))]
    return Manifest(rounds=tuple(entries), results=tuple(results))


def to_json(manifest: Manifest) -> str:
    return manifest.model_dump_json(indent=1) + "\n"


def read(content: bytes, name: str) -> Manifest:
    """A manifest from a file's content; raises BadInput."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        told = "".join(sign if sign.isprintable() else "\ufffd" for sign in f"{where}: {first['msg']}")[:300]
        raise BadInput(f"{name} is no manifest of version {VERSION}: {told.removeprefix(': ')}") from None


def _runs(one: RoundResults) -> Iterator[Result]:
    """Each job with the decision on it, and decisions that needed no job."""
    jobs = {key_of(record): record for record in one.jobs}
    for key in dict.fromkeys([*jobs, *one.verdicts]):
        job, decision = jobs.get(key), one.verdicts.get(key)
        figures: dict[str, Figure] = {}
        if job is not None:
            figures |= {key: job[key] for key in NUMBERS if job.get(key) is not None}
            figures |= _ends(job.get("d_acc_ci"))
            figures["status"] = job["status"]
        if decision is not None:
            figures["decision"] = decision["status"]
        known = job or decision or {}
        fingerprint = None if job is None else job["fingerprint"]
        name = f"{one.view.round}/{key.task}/{key.stage}/{key.variant}/seed{key.seed}"
        yield Result(id=name, fingerprint=fingerprint, caveats=tuple(known["caveats"]), figures=figures)


def _means(one: RoundResults) -> Iterator[Result]:
    for effect in of_rounds([one]).effects:
        if effect.across is not None:
            yield Result(
                id=f"{one.view.round}/{effect.task}/{effect.stage}/{effect.variant}",
                caveats=tuple(effect.caveats),
                figures=_pooled(effect),
            )


def _pooled(effect: Effect) -> dict[str, Figure]:
    across = effect.across
    assert across is not None  # noqa: S101  (its caller asks)
    figures: Mapping[str, Figure | None] = {
        "d_acc": across.mean,
        "d_acc_sd": across.sd,
        "n_runs": across.n,
        "seed_pattern": across.pattern,
        "positive_seeds": across.positive,
        "p_value": effect.p_value,
        "q_value": effect.q_value,
        "n_tried": effect.tried,
    }
    return {name: figure for name, figure in figures.items() if figure is not None} | _ends(effect.interval)


def _ends(interval: Sequence[float] | None) -> dict[str, Figure]:
    return {} if interval is None else {"d_acc_low": interval[0], "d_acc_high": interval[1]}
