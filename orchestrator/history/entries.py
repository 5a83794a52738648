"""What a record says, whatever generation of the predecessor, or version of fsq, wrote it.

Keys may be missing; a key that is there must hold what its name says. A record that lacks its round has it in the
name of its file; the other keys that a generation lacks are taken from what implies them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.history.predecessor import NO_FS, PROMPT_FS, SKIP_REUSE
from orchestrator.messages import one_line
from orchestrator.rounds.consistency import CONTROL_ARM
from worker.job import BASELINE, Outcome

MAX_TEXT = 500  # characters of a name
MOST = 1e15  # of any number in a record
KEYS = ("stage", "config", "variant", "mode", "status", "best_val_loss", "best_val_tok_acc")  # one is there
LEDGER_KEY = "quick_delta_pp"
OWN_KEY = "variant_of"  # in every record that fsq writes, and in none of the predecessor's
OK = frozenset({Outcome.OK, Outcome.CACHED, SKIP_REUSE})
BASELINES = frozenset({BASELINE, NO_FS})

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One training run, or an attempt at one."""

    source: str  # file:line, or the job
    round: str
    task: str
    stage: str
    config: str
    status: str
    seed: int | None = None
    accuracy: float | None = None  # best of the run's evaluations, a fraction
    has_other_metrics: bool = False  # as the embedding rounds have: val_r1, val_mrr10
    loss: float | None = None
    batch_size: int | None = None
    steps: int | None = None
    n_tokens: int | None = None  # answer tokens of the validation set
    run_dir: str = ""
    mode: str = ""
    dataset: str = ""
    signed_seed: int | None = None  # the one in its signature
    error: str = ""
    caveats: tuple[str, ...] = ()
    # written by fsq: it says itself what is known of the predecessor's records by their names
    is_own: bool = False

    @property
    def is_baseline(self) -> bool:
        return self.config == BASELINE if self.is_own else self.config in BASELINES

    @property
    def is_control(self) -> bool:
        """Whether this is fsq's control arm: the baseline under another seed."""
        return self.is_own and self.config == CONTROL_ARM and self.mode == NO_FS

    @property
    def is_variant(self) -> bool:
        """Whether it is to be held against a baseline."""
        return not (self.is_baseline or self.is_control)

    @property
    def has_numbers(self) -> bool:
        return self.accuracy is not None or self.loss is not None or self.has_other_metrics

    @property
    def is_measured(self) -> bool:
        return self.status in OK and self.accuracy is not None

    @property
    def score(self) -> float:
        """The accuracy of a run that is measured."""
        assert self.accuracy is not None  # noqa: S101  (a measured run has one)
        return self.accuracy

    @property
    def trainer(self) -> str:
        """The program that ran, as the predecessor's folders name it: runs/TIME/TRAINER/MODE."""
        parts = self.run_dir.split("/")
        return parts[-2] if len(parts) >= 4 and parts[-1] in (NO_FS, PROMPT_FS) else ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was concluded about a configuration, and why."""

    source: str
    round: str
    task: str
    stage: str  # the one decided
    config: str
    status: str
    seed: int | None = None
    reason: str = ""
    d_acc: float | None = None  # a fraction, where the record has it
    cooldown_until: int | None = None
    is_own: bool = False  # as of a run


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A task of a round in the predecessor's ledger: its best quick delta, and the med delta where there was one."""

    source: str
    round: str
    task: str
    family: str
    quick_delta: float  # fractions
    quick_config: str
    med_delta: float | None = None
    med_config: str = ""
    is_reversal: bool | None = None  # as the ledger has it


Entry = Run | Decision | LedgerRow


@dataclass
class History:
    """Records to be judged together."""

    runs: list[Run] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    ledger: list[LedgerRow] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> History:
        history = cls()
        for entry in entries:
            history.add(entry)
        return history

    def add(self, entry: Entry) -> None:
        if isinstance(entry, Run):
            self.runs.append(entry)
        elif isinstance(entry, Decision):
            self.decisions.append(entry)
        else:
            self.ledger.append(entry)


class NotARecord(ValueError):
    """The object is no record; the message says why."""


def round_of(data: Any, file: str) -> str:
    """The round of a record: its own, or that in its file's name; raises NotARecord."""
    if not isinstance(data, dict):
        raise NotARecord("expected an object with the keys of a record")
    said = data.get("round")
    if isinstance(said, int | float):
        number = _whole(data, "round")
        said = None if number is None else str(number)
    if said is not None:
        return _text({"round": said}, "round")
    named = re.search(r"round_?(\d+)", file)
    stem = file.rpartition("/")[2].partition(".")[0].strip("_").removesuffix("_records")
    return named[1] if named else one_line(stem, MAX_TEXT)


def entry_of(data: Data, round_: str, source: str) -> Entry:
    """The record as a run, a decision or a row of the ledger; raises NotARecord."""
    if LEDGER_KEY in data:
        return _ledger_row(data, round_, source)
    if not any(key in data for key in KEYS):
        raise NotARecord(f"none of the keys of a record: {', '.join(KEYS)}")
    stage = _text(data, "stage")
    if stage == "decision" or (stage.endswith("_decision") and OWN_KEY not in data):
        return _decision(data, round_, source, stage)
    return _run(data, round_, source, stage)


def _run(data: Data, round_: str, source: str, stage: str) -> Run:
    signature = _signature(data)
    run_dir = _text(data, "run_dir")
    mode = _text(data, "mode")
    run = Run(
        source=source,
        round=round_,
        task=_task(data),
        stage=stage,
        config=_text(data, "config") or _text(data, "variant") or mode,
        status=_text(data, "status"),
        seed=_whole(data, "seed") if data.get("seed") is not None else _whole(signature, "seed"),
        accuracy=_accuracy(data),
        has_other_metrics=any(key.startswith("val_") for key in data),
        loss=_number(data, "best_val_loss"),
        batch_size=_whole(data, "bsz"),
        steps=_whole(data, "steps"),
        n_tokens=_whole(data, "n_val_tokens"),
        run_dir=run_dir,
        mode=mode,
        dataset=_text(signature, "ds"),
        signed_seed=_whole(signature, "seed"),
        error=one_line(str(data.get("error") or ""), MAX_TEXT),
        caveats=_texts(data, "caveats"),
        is_own=OWN_KEY in data,
    )
    if not run.status and run.has_numbers:
        run = replace(run, status=Outcome.OK.value)
    return run if run.task else _with_task_of_trainer(run)


def _task(data: Data) -> str:
    """The task, with the scene in which round 38 put it: the same task under another prompt length."""
    task, scene = _text(data, "task"), _text(data, "scene")
    return f"{task}[{scene}]" if scene else task


def _with_task_of_trainer(run: Run) -> Run:
    return replace(run, task=f"({run.trainer})" if run.trainer else "(no task)")


def _decision(data: Data, round_: str, source: str, stage: str) -> Decision:
    decided = _text(data, "decided_stage") or stage.removesuffix("decision").rstrip("_")
    return Decision(
        source=source,
        round=round_,
        task=_task(data) or "(no task)",
        stage=decided,
        config=_text(data, "config"),
        status=_text(data, "status"),
        seed=_whole(data, "seed"),
        reason=one_line(str(data.get("reason") or ""), MAX_TEXT),
        d_acc=_number(data, "d_acc"),
        cooldown_until=_whole(data, "cooldown_until_round"),
        is_own=OWN_KEY in data,
    )


def _ledger_row(data: Data, round_: str, source: str) -> LedgerRow:
    quick = _number(data, LEDGER_KEY)
    if quick is None:
        raise NotARecord(f"{LEDGER_KEY} is missing")
    med = _number(data, "med_delta_pp")
    flag = _text(data, "reversal_qpos_mnonpos").lower()
    return LedgerRow(
        source=source,
        round=round_,
        task=_text(data, "task") or "(no task)",
        family=_text(data, "family"),
        quick_delta=quick / 100,
        quick_config=_text(data, "quick_cfg"),
        med_delta=None if med is None else med / 100,
        med_config=_text(data, "med_cfg"),
        is_reversal={"true": True, "false": False}.get(flag),
    )


def _signature(data: Data) -> Data:
    """The predecessor's signature, an object written as text within the record; empty where there is none."""
    try:
        signature = json.loads(data.get("signature") or "{}")
    except (TypeError, ValueError, RecursionError):
        return {}
    return signature if isinstance(signature, dict) else {}


def _text(data: Data, key: str) -> str:
    value = data.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NotARecord(f"{key} is {_shown(value)}, expected text")
    if len(value) > MAX_TEXT or not value.isprintable():
        raise NotARecord(f"{key} is {_shown(value)}, expected a line of at most {MAX_TEXT} characters")
    return value


def _texts(data: Data, key: str) -> tuple[str, ...]:
    value = data.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise NotARecord(f"{key} is {_shown(value)}, expected a list of texts")
    return tuple(_text({key: each}, key) for each in value)


def _number(data: Data, key: str) -> float | None:
    """A number; None where it is missing, or was none when the record was written (NaN, Infinity)."""
    value = data.get(key)
    if isinstance(value, str) and LEDGER_KEY in data:  # a table of text
        with suppress(ValueError):
            value = float(value) if value.strip() else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotARecord(f"{key} is {_shown(value)}, expected a number")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if abs(value) > MOST:
        raise NotARecord(f"{key} is {_shown(value)}, which is too large")
    return float(value)


def _whole(data: Data, key: str) -> int | None:
    value = _number(data, key)
    if value is not None and (value != int(value) or value < 0):
        raise NotARecord(f"{key} is {_shown(data[key])}, expected a whole number, 0 or above")
    return None if value is None else int(value)


def _accuracy(data: Data) -> float | None:
    value = _number(data, "best_val_tok_acc")
    if value is not None and not 0 <= value <= 1:
        raise NotARecord(f"best_val_tok_acc is {value}, expected a fraction between 0 and 1")
    return value


def _shown(value: Any) -> str:
    try:
        return one_line(repr(value), 60)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
