"""Rounds as a client gives them, made up of records with chosen numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from db.tables import JobState, RoundState
from orchestrator.reports.gathering import RoundResults
from orchestrator.views.shapes import Funnel, RoundView
from tests.orchestrator.factories import NOW

STAGES = ("quick", "med")


def job(
    config: str, stage: str = "quick", seed: int = 0, d_acc: float | None = 0.0, **more: Any
) -> dict[str, Any]:
    """A job's record; its fingerprint is told by what it is, its round left out."""
    is_baseline = config == "baseline"
    accuracy = 0.5 if is_baseline else None if d_acc is None else round(0.5 + d_acc, 12)
    return {
        "round": "r1",
        "task": "s4",
        "stage": stage,
        "config": config,
        "variant_of": None if is_baseline else "baseline",
        "seed": seed,
        "bsz": 4,
        "status": "diverged" if accuracy is None else "ok",
        "best_val_tok_acc": accuracy,
        "best_val_loss": 1.25,
        "baseline_val_tok_acc": None if is_baseline else 0.5,
        "error": None,
        "reason": None,
        "d_acc": None if is_baseline else d_acc,
        "d_loss": None if is_baseline else -0.01,
        "d_acc_ci": None,
        "n_val": 10,
        "n_val_tokens": 40,
        "steps": 4,
        "tokens": 1600,
        "seconds": 1.5,
        "fingerprint": f"{config}-{stage}-{seed}-{d_acc}",
        "cached_from": None,
        "caveats": [],
        "started_at": "2026-01-01T00:00:00.000+00:00",
        "finished_at": "2026-01-01T00:00:30.000+00:00",
        "device": "cpu",
        "kernel": "chunked",
        "version": "0.1.0",
    } | more


def decision(
    config: str, status: str, stage: str = "quick", seed: int = 0, d_acc: float | None = 0.0, **more: Any
) -> dict[str, Any]:
    return {
        "round": "r1",
        "task": "s4",
        "stage": "decision",
        "decided_stage": stage,
        "config": config,
        "variant_of": "baseline",
        "seed": seed,
        "status": status,
        "reason": "because",
        "metric": "best_val_tok_acc",
        "best_val_tok_acc": None if d_acc is None else 0.5 + d_acc,
        "d_acc": d_acc,
        "d_loss": None,
        "d_acc_ci": None,
        "caveats": [],
        "finished_at": "2026-01-01T00:00:30.000+00:00",
        "version": "0.1.0",
    } | more


def of_round(
    records: Sequence[dict[str, Any]], name: str = "r1", stages: Sequence[str] = STAGES, **more: Any
) -> RoundResults:
    """A finished round with these records, whatever they say of their round."""
    named = [record | {"round": name} for record in records]
    view: dict[str, Any] = {
        "round": name,
        "state": RoundState.FINISHED,
        "reason": None,
        "after": None,
        "jobs": dict.fromkeys(JobState, 0),
        "decisions": {},
        "created_at": NOW,
        "finished_at": NOW,
        "tasks": ("s4",),
        "variants": ("l1", "l2"),
        "no_ops": (),
        "stages": tuple(stages),
        "seeds": (0, 1),
        "min_delta": 0.001,
        "metric": "best_val_tok_acc",
        "funnel": Funnel(planned=8, done=4, cached=0, pruned=1, rejected=0, promoted=0, confirmed=0),
        "confirm_stage": None,
        "noise_floor": None,
        "n_events": 9,
    }
    lines = tuple(json.dumps(record) for record in named)
    return RoundResults(RoundView.model_construct(**view | more), lines)


def two_seeds() -> list[dict[str, Any]]:
    """l1 gains at quick and loses at med, l2 is pruned, noop computes nothing, bad diverges."""
    found: list[dict[str, Any]] = []
    for seed, gain in ((0, 0.05), (1, 0.025)):
        found += [
            job("baseline", seed=seed),
            job("l1", seed=seed, d_acc=gain),
            decision("l1", "promoted", seed=seed, d_acc=gain),
            job("baseline", "med", seed=seed),
            job("l1", "med", seed=seed, d_acc=-gain / 2),
            decision("l1", "rejected", "med", seed=seed, d_acc=-gain / 2),
            job("l2", seed=seed, d_acc=-0.025, d_loss=gain, caveats=["at_chance", "single_seed"]),
            decision("l2", "pruned", seed=seed, d_acc=-0.025),
            decision("noop", "no_op", seed=seed, d_acc=None),
            job("bad", seed=seed, d_acc=None, error="NaN loss"),
            decision("bad", "pruned", seed=seed, d_acc=None),
        ]
    return found
