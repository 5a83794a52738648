"""What a round can never show, or does other than one may think, told before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sqlalchemy.orm import Session

from orchestrator.findings.past_runs import spreads
from orchestrator.points import points
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.statistics.seeds import least_sign_p
from orchestrator.statistics.variants import smallest_effect

ENOUGH_SEEDS = 5  # the fewest with which a sign test can come below 0.05
SNAPSHOT_BYTES = 12  # for each parameter: its weight, and AdamW's two moments
NUMBERS = {1: "one paired seed", 2: "two paired seeds", 3: "three paired seeds", 4: "four paired seeds"}


def warnings(session: Session, resolved: ResolvedRound, snapshot_bytes: int | None) -> tuple[str, ...]:
    """All that is to be told; snapshot_bytes: room for the snapshots that later stages continue, where known."""
    return (
        *_length_warnings(resolved),
        *_grid_warnings(resolved),
        *_snapshot_warnings(resolved, snapshot_bytes),
        *_selection_warnings(resolved),
        *_seed_warnings(resolved),
        *_spread_warnings(session, resolved),
    )


def _length_warnings(resolved: ResolvedRound) -> Iterator[str]:
    """Where a stage is shorter than the one before it, whose runs it can then not continue."""
    for earlier, later in pairwise(resolved.spec.selecting):
        for unit in ("steps", "seconds"):
            before, after = getattr(earlier, unit), getattr(later, unit)
            if before is not None and after is not None and after < before:
                yield (
                    f"{later.name} has fewer {unit} ({after:g}) than {earlier.name} ({before:g}): a later stage is "
                    "meant to be longer, and continues its runs"
                )


def _grid_warnings(resolved: ResolvedRound) -> Iterator[str]:
    """Where a stage would go on with runs of one before, were it evaluated at the same steps."""
    for stage in resolved.spec.selecting:
        before = resolved.spec.stage_it_follows(stage.name)
        if before is not None and resolved.spec.stage_it_continues(stage.name) is None:
            yield (
                f"{stage.name} trains from the start: it is evaluated every {stage.eval_every} steps, and "
                f"{before.name} every {before.eval_every}; with the same eval_every it continues its runs"
            )


def _snapshot_warnings(resolved: ResolvedRound, room: int | None) -> Iterator[str]:
    """Where a baseline and one variant cannot both wait for their next stage."""
    size = SNAPSHOT_BYTES * resolved.facts.model.n_params
    continues = len(resolved.spec.not_continued(resolved.search.stages)) < len(resolved.search.stages)
    if continues and room is not None and 2 * size > room:
        yield (
            f"later stages train from the start: the snapshots of a baseline and one variant take "
            f"{2 * size / 2**30:.1f} GiB, and there is room for {room / 2**30:.1f} (FSQ_SNAPSHOT_GIB)"
        )


def _selection_warnings(resolved: ResolvedRound) -> Iterator[str]:
    """Where a variant is measured again on what it was chosen on."""
    for variant, places in resolved.facts.selected_on.items():
        seeds = sorted({seed for _, seed in places})
        yield (
            f"{variant} was the best of several on the same examples with seed{'s' if len(seeds) > 1 else ''} "
            f"{', '.join(map(str, seeds))}: measured there again it proves nothing new; give this round other seeds"
        )


def _seed_warnings(resolved: ResolvedRound) -> Iterator[str]:
    """Where there are too few seeds for any outcome to be significant by their signs."""
    search = resolved.search
    used = {f"stages {', '.join(search.stages)}": len(search.seeds)}
    if search.confirmation is not None:
        used[f"stage {search.confirmation.stage}"] = len(search.confirmation.seeds)
    for where, n in used.items():
        if n < ENOUGH_SEEDS:
            yield (
                f"{where}: {NUMBERS[n]} can never reach p < {least_sign_p(n):g} by their signs, whatever they show; "
                f"five are the least for p < 0.05"
            )
    if len(search.seeds) < len(resolved.spec.seeds):
        yield (
            f"the rule {resolved.spec.prune.rule} takes {len(search.seeds)} seeds, and leaves out "
            f"{', '.join(str(seed) for seed in resolved.spec.seeds if seed not in search.seeds)}"
        )


def _spread_warnings(session: Session, resolved: ResolvedRound) -> Iterator[str]:
    """Where known runs that differ in nothing but their seed differ by more than the threshold can tell."""
    search = resolved.search
    for (task, stage), spread in spreads(session, resolved).items():
        seeds = (
            search.confirmation.seeds if search.confirmation and stage not in search.stages else search.seeds
        )
        found = smallest_effect(spread.sd, len(seeds))
        if found > abs(search.rule.min_delta):
            yield (
                f"{task} at {stage}: runs of the baseline differ by {points(spread.sd)[1:]} ({spread.runs} runs), so "
                f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} cannot tell less than {points(found)} from chance "
                f"(80 % power), and the threshold is {points(search.rule.min_delta)}; `fsq calibrate` says more"
            )
