"""What the parts of a round say against each other, each valid by itself.

Every check names the parts that it looks at by its parameters, so that those which fit can be compared while others
are still wrong: a round file's problems are told all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from inspect import signature
from typing import TYPE_CHECKING, Any

from orchestrator.messages import Location, dotted, one_line
from worker.job import in_words

if TYPE_CHECKING:
    from orchestrator.rounds.spec import After, EarlyStopping, Stage
    from orchestrator.rounds.variants import Selection, Variant
    from orchestrator.rules import Rule
    from worker.job import OptimizerConfig, TaskConfig

CONTROL_ARM = "aa"  # the baseline under another name and seed, where a round asks for it

Conflict = tuple[Location, str]  # where in the round, and what


class Inconsistent(ValueError):
    """Parts of a round do not fit together; carries every conflict found."""

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        self.conflicts = tuple(conflicts)
        super().__init__("; ".join(f"{dotted(place)}: {message}" for place, message in conflicts))


def conflicts(parts: Mapping[str, Any], *, is_stored: bool = False) -> list[Conflict]:
    """The conflicts between those parts of a round that are given, by their names in `RoundSpec`.

    Of a stored round only those that no version has let pass.
    """
    found: list[Conflict] = []
    for check, needed in (_CHECKS if is_stored else _CHECKS | _NEWER_CHECKS).items():
        if needed <= parts.keys():
            found += check(**{name: parts[name] for name in needed})
    return found


def _stages_once(stages: Sequence[Stage]) -> Iterator[Conflict]:
    for i in _again([stage.name for stage in stages]):
        yield ("stages", i, "name"), f"the stage {stages[i].name} stands more than once"


def _variants_once(variants: Sequence[Variant | Selection]) -> Iterator[Conflict]:
    names = [getattr(variant, "name", None) for variant in variants]
    for i in _again(names):
        if names[i] is not None:
            yield ("variants", i), f"the variant {names[i]} stands more than once"


def _seeds_once(seeds: Sequence[int]) -> Iterator[Conflict]:
    for i in _again(seeds):
        yield ("seeds", i), f"the seed {seeds[i]} stands more than once"


def _control_has_its_name(variants: Sequence[Variant | Selection], control: str | None) -> Iterator[Conflict]:
    for i, variant in enumerate(variants):
        if control and getattr(variant, "name", None) == CONTROL_ARM:
            yield ("variants", i), f"{CONTROL_ARM!r} is the name of the control arm; choose another name"


def _follows_another(round: str, after: After | None) -> Iterator[Conflict]:
    if after is not None and after.round == round:
        yield ("after", "round"), f"the round {round!r} cannot come after itself"


def _takes_from_another(round: str, variants: Sequence[Variant | Selection]) -> Iterator[Conflict]:
    for i, variant in enumerate(variants):
        if getattr(variant, "source", None) == round:
            yield ("variants", i), f"the round {round!r} cannot take its variants from itself"


def _confirms_last(stages: Sequence[Stage]) -> Iterator[Conflict]:
    for i, stage in enumerate(stages):
        if stage.confirm and (i == 0 or i < len(stages) - 1):
            yield ("stages", i), "a stage that confirms comes last, after at least one that selects"


def _rule_names_seeds(prune: Rule, seeds: Sequence[int]) -> Iterator[Conflict]:
    """What a plug-in makes of a round's seeds are seeds."""
    try:
        used = prune.seeds(tuple(dict.fromkeys(seeds)))
        are_seeds = isinstance(used, tuple) and all(type(seed) is int and 0 <= seed < 2**31 for seed in used)
        wrong = "" if used and are_seeds and len(set(used)) == len(used) else f"gave {used!r}"
    except (Exception, SystemExit) as error:
        wrong = f"raised {in_words(error)}"
    if wrong:
        wanted = f"the rule {prune.rule!r} must name seeds, each once, at least one"
        yield ("prune",), f"{wanted}; its seeds() {one_line(wrong)}"


def _schedule_has_its_length(optimizer: OptimizerConfig, stages: Sequence[Stage]) -> Iterator[Conflict]:
    endless = [stage.name for stage in stages if stage.steps is None]
    if optimizer.depends_on_length and endless:
        message = f"{optimizer.schedule} needs steps in every stage; {endless[0]} has none"
        yield ("optimizer", "schedule"), message


def _rule_can_stop_early(early_stop: EarlyStopping | None, prune: Rule) -> Iterator[Conflict]:
    if early_stop is not None and not prune.prunes_below_min_delta:
        yield (
            ("early_stop",),
            (
                f"the rule {prune.rule!r} does not prune each run below min_delta by itself, as 'threshold' does; a "
                "run that is stopped would change what it decides"
            ),
        )


def _confirms_on_other_examples(
    stages: Sequence[Stage], tasks: Mapping[str, TaskConfig]
) -> Iterator[Conflict]:
    if (confirm := stages[-1].confirm) is None:
        return
    for name, task in tasks.items():
        if confirm.val is None and task.val < 2:
            yield (
                ("tasks", name, "val"),
                f"the stage {stages[-1].name} confirms on as many examples, at least 2",
            )
        if task.val_selected:
            message = f"the stage {stages[-1].name} sets it itself; val_offset passes over examples, too"
            yield ("tasks", name, "val_selected"), message


def _stages_can_stop_early(early_stop: EarlyStopping | None, stages: Sequence[Stage]) -> Iterator[Conflict]:
    endless = [stage.name for stage in stages if stage.confirm is None and stage.steps is None]
    if early_stop is not None and endless:
        yield ("early_stop",), f"needs steps in every stage that selects; {endless[0]} has none"


_Check = Callable[..., Iterator[Conflict]]


def _with_needed(*checks: _Check) -> dict[_Check, Set[str]]:
    return {check: signature(check).parameters.keys() for check in checks}


_CHECKS = _with_needed(
    _follows_another,
    _takes_from_another,
    _stages_once,
    _confirms_last,
    _variants_once,
    _control_has_its_name,
    _seeds_once,
    _schedule_has_its_length,
    _rule_can_stop_early,
    _stages_can_stop_early,
)
_NEWER_CHECKS = _with_needed(_confirms_on_other_examples, _rule_names_seeds)


def _again(values: Sequence[Any]) -> Iterator[int]:
    """The places of values that stand at an earlier place, too."""
    seen: set[Any] = set()
    for i, value in enumerate(values):
        if value in seen:
            yield i
        seen.add(value)
