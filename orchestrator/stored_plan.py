"""A round's plan as the database has it: what follows from its jobs, and that as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from math import inf
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from db import events, queue
from db.events import EventKind
from db.queue import KnownResult
from db.tables import AT_ONCE, DECISIONS, JOBS
from orchestrator import evidence, stored_jobs
from orchestrator.evidence import Evidence, Pair
from orchestrator.planner import Plan, plan
from orchestrator.points import difference
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rounds.stored_round import as_broken_round
from orchestrator.search import Decision, JobKey, Lane, Measurement
from orchestrator.stored_jobs import Standing
from worker.job import BASELINE, CONCLUSIVE, REUSABLE, JobSpec, Outcome

_DECIDED = select(*(DECISIONS.c[name] for name in JobKey._fields))
_ADD_JOBS = insert(JOBS).returning(JOBS.c.id, sort_by_parameter_order=True)  # each id is its job's
_ADD_DECISIONS = insert(DECISIONS)
EXAMINED_AT_ONCE = 20  # decisions whose runs are asked for together


def current(
    session: Session, round_id: int, resolved: ResolvedRound, lane: Lane | None = None
) -> tuple[Plan, Mapping[JobKey, Standing]]:
    """What follows from the jobs that have finished, and where every job stands; of all, or of one lane.

    Raises BrokenRound.
    """
    found = standings(session, round_id, resolved, lane)
    return planned(resolved, found, lane), found


def standings(
    session: Session, round_id: int, resolved: ResolvedRound, lane: Lane | None = None
) -> dict[JobKey, Standing]:
    """Where every job stands, of all or of one lane, with all that decisions look at."""
    found = stored_jobs.standings(session, round_id, resolved.spec.prune.metric, lane)
    return _with_outcomes(session, resolved, found)


def planned(
    resolved: ResolvedRound,
    found: Mapping[JobKey, Standing],
    lane: Lane | None = None,
    foresee: Callable[[JobKey], Measurement | None] = lambda _: None,
) -> Plan:
    """What follows from where the jobs stand, all or those of one lane; raises BrokenRound.

    foresee: what a job that is not there yet will have measured as soon as it is.
    """
    search = resolved.search if lane is None else resolved.search.of_lane(lane)
    with as_broken_round(resolved.spec.round):
        return plan(search, _Finished(found, foresee))


class _Finished(Mapping[JobKey, Measurement]):
    """What jobs have measured, and those that are not there yet will have; each of these is asked for once."""

    def __init__(
        self, found: Mapping[JobKey, Standing], foresee: Callable[[JobKey], Measurement | None]
    ) -> None:
        self._found: dict[JobKey, Measurement | None] = {key: one.measurement for key, one in found.items()}
        self._foresee = foresee

    def __getitem__(self, key: JobKey) -> Measurement:
        if key not in self._found:
            self._found[key] = self._foresee(key)
        found = self._found[key]
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[JobKey]:
        return (key for key, found in self._found.items() if found is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Known:
    """Results that equals of a round's jobs have shown, each looked up once: those to come end with them at once.

    seconds: for foreseeing, from the first time that anything is.
    """

    def __init__(self, session: Session, round_id: int, resolved: ResolvedRound, seconds: float) -> None:
        self._session, self.resolved, self._seconds = session, resolved, seconds
        self._until: float | None = None
        self._answers = queue.Answers(REUSABLE, here=round_id, outcomes_here=CONCLUSIVE)
        self._specs: dict[JobKey, JobSpec] = {}
        self._found: dict[JobKey, KnownResult | None] = {}
        self.foreseen: set[JobKey] = set()  # what a plan rests on although it is not there yet

    @property
    def is_over(self) -> bool:
        """Whether there is no more time to foresee anything."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        return now > self._until

    def spec(self, key: JobKey) -> JobSpec:
        """All that a worker needs to run a job."""
        if key not in self._specs:
            self._specs[key] = self.resolved.job(key)
        return self._specs[key]

    def of(self, key: JobKey) -> KnownResult | None:
        """That of a job's equal, if there is one."""
        if key not in self._found:
            self._found[key] = queue.known_result(self._session, self.spec(key).fingerprint, self._answers)
        return self._found[key]

    def measurement(self, key: JobKey) -> Measurement | None:
        """What the planner needs of that."""
        if (known := self.of(key)) is None:
            return None
        return stored_jobs.measurement(known.result, known.reason, self.resolved.spec.prune.metric)

    def foresee(self, key: JobKey) -> Measurement | None:
        """What a job will have measured as soon as it is there; None where that is not known, or time is over.

        Nor where decisions look at what it got right of each example: that is read by way of a job that is there.
        """
        if _is_judged_by_example(self.resolved, key) or self.is_over:
            return None
        if (found := self.measurement(key)) is not None:
            self.foreseen.add(key)
        return found


def _with_outcomes(
    session: Session, resolved: ResolvedRound, found: dict[JobKey, Standing]
) -> dict[JobKey, Standing]:
    judged = [key for key in found if _is_judged_by_example(resolved, key)]
    if not judged:
        return found
    return stored_jobs.with_outcomes(found, stored_jobs.examined(session, resolved, found, judged))


def _is_judged_by_example(resolved: ResolvedRound, key: JobKey) -> bool:
    """Whether decisions look at what a job got right of each example."""
    return resolved.spec.prune.needs_examples or resolved.confirms(key.stage)


def with_evidence(
    session: Session,
    resolved: ResolvedRound,
    decisions: Sequence[Decision],
    found: Mapping[JobKey, Standing],
    until: float = inf,
) -> list[tuple[Decision, Evidence | None]]:
    """Decisions with what they rest on, if they have a delta.

    In their order, and at least one, but as soon as the clock (`time.monotonic`) says `until` no more.
    """
    told: list[tuple[Decision, Evidence | None]] = []
    for start in range(0, len(decisions), EXAMINED_AT_ONCE):
        if told and time.monotonic() > until:
            break
        some = decisions[start : start + EXAMINED_AT_ONCE]
        compared = {one.key: pairs(one) for one in some if one.d_acc is not None}
        keys = {key for each in compared.values() for pair in each for key in pair}
        examined = stored_jobs.examined(session, resolved, found, keys)
        for one in some:
            if told and time.monotonic() > until:
                return told
            each = [_pair(*pair, found, examined) for pair in compared.get(one.key, ())]
            told.append((one, evidence.of_pairs(each) if each else None))
    return told


def pairs(decision: Decision) -> list[tuple[JobKey, JobKey]]:
    """The runs that a decision rests on: the variant's and the baseline's of each seed."""
    keys = [decision.key._replace(seed=seed) for seed in decision.seeds or (decision.key.seed,)]
    return [(key, key._replace(variant=BASELINE)) for key in keys]


def _pair(
    variant: JobKey,
    baseline: JobKey,
    found: Mapping[JobKey, Standing],
    told: Mapping[JobKey, stored_jobs.Examined],
) -> Pair:
    one, other = found[variant].measurement, found[baseline].measurement
    assert one is not None and other is not None  # noqa: S101, PT018  (a decision rests on them)
    assert one.score is not None and other.score is not None  # noqa: S101, PT018
    both = variant in told and baseline in told
    return Pair(
        seed=variant.seed,
        delta=difference(one.score, other.score),
        variant=told[variant].outcomes if both else None,
        baseline=told[baseline].outcomes if both else None,
        fingerprints=(told[variant].fingerprint, told[baseline].fingerprint) if both else ("", ""),
    )


def add_jobs(
    session: Session, round_id: int, specs: Mapping[JobKey, JobSpec], known: Known, now: datetime
) -> dict[JobKey, Standing]:
    """Stores new jobs, and returns where they stand: an equal one's known result ends a job at once."""
    if not specs:
        return {}
    rows = [
        {
            **key._asdict(),
            "round_id": round_id,
            "fingerprint": spec.fingerprint,
            "trajectory": spec.trajectory,
            "payload": spec.model_dump(mode="json"),
            "not_before": AT_ONCE,
            "created_at": now,
        }
        for key, spec in specs.items()
    ]
    found: dict[JobKey, Standing] = {}
    for job_id, key in zip(session.scalars(_ADD_JOBS, rows).all(), specs, strict=True):
        found[key] = Standing(job_id, known.measurement(key))
        if (result := known.of(key)) is not None:
            queue.end_new(session, round_id, job_id, result, now=now, outcome=Outcome.CACHED)
    return _with_outcomes(session, known.resolved, found)


def unstored(session: Session, round_id: int, planned: Plan, lane: Lane | None) -> tuple[Decision, ...]:
    """The decisions that have not been stored."""
    query, which = stored_jobs.in_lane(_DECIDED, DECISIONS, round_id, lane)
    stored = {JobKey(*key) for key in session.execute(query, which)}
    return tuple(decision for decision in planned.decisions if decision.key not in stored)


def add_decisions(
    session: Session, round_id: int, decisions: Sequence[tuple[Decision, Evidence | None]], now: datetime
) -> None:
    """Stores decisions with what they rest on."""
    if not decisions:
        return
    rows = []
    for decision, found in decisions:
        task, stage, variant, seed = decision.key
        verdict: dict[str, Any] = {
            "decision": decision.verdict,
            "reason": decision.reason,
            "d_acc": decision.d_acc,
        }
        rows.append(
            {
                **decision.key._asdict(),
                **verdict,
                "round_id": round_id,
                "d_loss": decision.d_loss,
                "evidence": None if found is None else found.model_dump(mode="json"),
                "created_at": now,
            }
        )
        told = {"task": task, "stage": stage, "config": variant, "seed": seed, **verdict}
        events.append(session, round_id, EventKind.DECIDED, now=now, **told)
    session.execute(_ADD_DECISIONS, rows)
