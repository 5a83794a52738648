"""Rounds as the database has them: found, locked, and read back into what was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from db import tables
from orchestrator.errors import BrokenRound, Conflict, no_such_round
from orchestrator.messages import dotted, one_line
from orchestrator.rounds.consistency import CONTROL_ARM
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rounds.spec import RoundSpec
from orchestrator.rules import RuleFailed
from worker.job import RoundFacts


def find(session: Session, name: str) -> tables.Round:
    """The round of this name; raises NotFound."""
    row = session.scalars(select(tables.Round).where(tables.Round.name == name)).first()
    if row is None:
        raise no_such_round(name)
    return row


def locked(session: Session, round_id: int) -> tables.Round:
    """A round as it is now, held until the transaction ends.

    Whoever locks several takes them down the chain, a parent before its children. The lock lets others refer to
    the round meanwhile, as its children do whenever they change.
    """
    return session.get_one(
        tables.Round, round_id, with_for_update={"key_share": True}, populate_existing=True
    )


def resolve(row: tables.Round) -> ResolvedRound:
    """The round as it was submitted, with the variants that it has taken from others since; raises BrokenRound."""
    selected = None if row.selected is None else json.dumps(row.selected)
    return resolved_from(row.name, json.dumps(row.spec), selected, json.dumps(row.facts))


def resolved_from(name: str, spec: str, selected: str | None, facts: str) -> ResolvedRound:
    """A round from its columns as JSON; raises BrokenRound."""
    with as_broken_round(name):
        return _resolved(spec, selected, facts)


@contextmanager
def as_broken_round(name: str) -> Iterator[None]:
    """Raises BrokenRound for what is wrong with a stored round: its rule may be gone, or fail."""
    try:
        yield
    except ValidationError as error:
        raise unreadable(f"round {name}", error, name) from error
    except RuleFailed as error:
        raise BrokenRound(f"round {name}: {one_line(str(error))}", name) from error


def unreadable(what: str, error: ValidationError, name: str | None = None) -> BrokenRound:
    """What to say of something stored, of the round `name`, that this version cannot read."""
    found = [
        (dotted(one["loc"]), one["msg"].removeprefix("Value error, "))
        for one in error.errors(include_url=False)
    ]
    said = "; ".join(f"{place}: {message}" if place else message for place, message in found)
    return BrokenRound(f"{what} cannot be read here: {one_line(said)}", name)


@lru_cache(maxsize=64)
def _resolved(spec: str, selected: str | None, facts: str) -> ResolvedRound:
    """A round by its columns as JSON: validating a large one takes longer than all else that is done with it."""
    asked = json.loads(spec)
    if (variants := json.loads(selected or "null")) is not None:
        asked |= {"variants": variants}
    return ResolvedRound(RoundSpec.from_json(asked), RoundFacts.model_validate_json(facts))


def as_submitted(row: tables.Round) -> ResolvedRound:
    """A stored round without what it has taken from others; another version of fsq found another digest of it."""
    return resolved_from(row.name, json.dumps(row.spec), None, json.dumps(row.facts))


def on_candidates(row: tables.Round) -> list[tables.Decision]:
    """The decisions on all arms but the control."""
    control = CONTROL_ARM if row.spec.get("control") else None
    return [decision for decision in row.decisions if decision.variant != control]


def submitted(session: Session, resolved: ResolvedRound) -> int | None:
    """The round's id if it has been submitted; raises Conflict when its name is taken by one that differs."""
    name = resolved.spec.round
    row = session.scalars(select(tables.Round).where(tables.Round.name == name)).first()
    if row is None:
        return None
    if resolved.digest != row.digest and resolved.digest != as_submitted(row).digest:
        raise Conflict(
            f"a round named {name!r} exists and differs from this one (its settings, its data or its "
            "checkpoint); give this one another name"
        )
    return row.id
