"""Variants that a round takes from others once these have ended: `variants: {from: ROUND, ...}`."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sqlalchemy.orm import Session

from db import tables
from db.tables import RoundState
from orchestrator.errors import BadRound, Problem
from orchestrator.evidence import Evidence
from orchestrator.rounds import chains
from orchestrator.rounds.catalogue import MAX_NAME
from orchestrator.rounds.consistency import CONTROL_ARM
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rounds.spec import RoundSpec
from orchestrator.rounds.stored_round import find, on_candidates, resolve
from orchestrator.verdicts import AGAINST, Verdict
from worker.job import FutureSeedSettings, RoundFacts


def check(session: Session, spec: RoundSpec) -> None:
    """Raises NotFound, or BadRound where a round that variants come from will not have ended or lacks the stage."""
    for selection in spec.selections:
        source = find(session, selection.source)
        stages = [stage["name"] for stage in source.spec["stages"]]
        if selection.by is not None and selection.by not in stages:
            problem = f"the round {source.name} has no stage {selection.by!r}; it has {', '.join(stages)}"
        elif selection.by is not None and selection.by not in _selecting(source):
            problem = (
                f"the stage {selection.by!r} of {source.name} confirms, and what confirms does not select"
            )
        elif spec.parent and spec.parent.round != source.name and not source.state.has_ended:
            problem = f"the round {source.name} has not ended; only the one named in `after` is waited for"
        else:
            continue
        raise BadRound(spec.round, [Problem("variants", None, problem)])


def take_over(session: Session, row: tables.Round, spec: RoundSpec) -> chains.Start:
    """Gives a round the variants that its selections come to, if there are some."""
    if again := unended(session, spec):
        why = f"it was to start while round {again[0]}, which its variants come from, ran again"
        return chains.Start(RoundState.BLOCKED, f"{why}; once that has ended, `fsq retry {spec.round}`")
    found = with_selected(session, ResolvedRound(spec, RoundFacts.from_json(row.facts)))
    if not found.spec.named:
        return chains.Start(RoundState.BLOCKED, _nothing_selected(spec))
    row.selected = [variant.model_dump(mode="json") for variant in found.spec.named]
    row.facts = found.facts.model_dump(mode="json")
    return chains.Start(RoundState.ACTIVE)


def unended(session: Session, spec: RoundSpec) -> list[str]:
    """The rounds that variants will come from and that have not ended; raises NotFound."""
    sources = {selection.source: find(session, selection.source) for selection in spec.selections}
    return [name for name, source in sources.items() if not source.state.has_ended]


def with_selected(session: Session, asked: ResolvedRound) -> ResolvedRound:
    """The round with the variants that its selections come to; the source rounds have ended. Raises NotFound.

    A variant that is there already is not added again; one whose name another has, or the control arm, gets the
    source's name too.
    """
    variants = {variant.name: variant for variant in asked.spec.named}
    selected_on: dict[str, set[tuple[str, int]]] = {}
    for selection in asked.spec.selections:
        source = find(session, selection.source)
        resolved = resolve(source)
        offered = {variant.name: variant for variant in resolved.spec.named}
        decided = _decided(source, selection.by, selection.where)
        chosen = chains.choose(decided, selection.where, selection.top, resolved.same_as)
        is_choice = len(chosen) < len(resolved.search.rivals)
        for name in chosen:
            taken, new_name = offered[name], name
            is_free = name != CONTROL_ARM or asked.spec.control is None
            if not is_free or variants.setdefault(name, taken) != taken:
                new_name = _free_name(f"{name}.{source.name}", variants)
                variants[new_name] = taken.model_copy(update={"name": new_name})
            places = selected_on.setdefault(new_name, set())
            places.update(_chosen_on(resolved, name, asked, is_choice=is_choice))
    spec = asked.spec.model_copy(update={"variants": tuple(variants.values())})
    canonical = ResolvedRound(spec, asked.facts).canonical
    by_settings: dict[FutureSeedSettings, set[tuple[str, int]]] = {}  # whatever a variant is called
    for name, places in selected_on.items():
        if (settings := canonical[name]) is not None and places:
            by_settings.setdefault(settings, set()).update(places)
    found = {
        name: tuple(sorted(by_settings[settings]))
        for name, settings in canonical.items()
        if settings is not None and settings in by_settings
    }
    return ResolvedRound(spec, asked.facts.model_copy(update={"selected_on": found}))


def _chosen_on(
    source: ResolvedRound, variant: str, target: ResolvedRound, *, is_choice: bool
) -> Iterator[tuple[str, int]]:
    """The tasks and seeds of a round on whose examples and seeds its source, or one before that, chose a variant.

    is_choice: whether others of the source were left behind.
    """
    chosen = set(source.facts.selected_on.get(variant, ()))
    if is_choice:
        chosen |= {(task, seed) for task in source.search.tasks for seed in source.search.seeds}
    same = {(source.facts.tasks[task].digest, seed) for task, seed in chosen}
    for task in target.search.tasks:
        for seed in target.search.seeds:
            if (target.facts.tasks[task].digest, seed) in same:
                yield task, seed


def _free_name(wanted: str, taken: Collection[str]) -> str:
    candidates = [wanted[:MAX_NAME], *(f"{wanted[: MAX_NAME - 4]}.{number}" for number in range(2, 999))]
    return next(name for name in candidates if name not in taken)


def _selecting(source: tables.Round) -> list[str]:
    return [stage["name"] for stage in source.spec["stages"] if stage.get("confirm") is None]


def _decided(source: tables.Round, by: str | None, where: chains.Where) -> list[chains.Decided]:
    """What a selection goes by: deltas of a stage that selects; of one that confirms at most who was confirmed.

    Of the stages before only the runs that ended without a number.
    """
    selecting = _selecting(source)
    stage = by if by in selecting else selecting[-1]
    up_to_it = selecting[: selecting.index(stage) + 1]
    found = []
    for decision in on_candidates(source):
        verdict = Verdict(decision.decision)
        is_unnumbered = verdict in AGAINST and decision.d_acc is None and decision.stage in up_to_it
        is_of_confirmation = where == "confirmed" and decision.stage not in selecting
        if decision.stage == stage or is_unnumbered or is_of_confirmation:
            deltas = _deltas(decision) if decision.stage == stage else ()
            found.append(chains.Decided(decision.variant, verdict, deltas, is_unnumbered))
    return found


def _deltas(decision: tables.Decision) -> tuple[float, ...]:
    """Of each seed that a decision rests on."""
    if decision.d_acc is None:
        return ()
    if decision.evidence is None:
        return (decision.d_acc,)
    return tuple(one.d_acc for one in Evidence.from_json(decision.evidence).seeds)


def _nothing_selected(spec: RoundSpec) -> str:
    sources = ", ".join(dict.fromkeys(selection.source for selection in spec.selections))
    return f"round {sources} has no variant of the kind asked for"
