"""Rules by name: the built-in ones, and those of installed packages; a broken plug-in harms only itself."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from orchestrator.rules.evidence import Evidence
from orchestrator.rules.halving import Halving
from orchestrator.rules.rule import Rule, Scope
from orchestrator.rules.threshold import Threshold
from orchestrator.rules.top_k import TopK
from worker.job import in_words

GROUP = "fsq.rules"
DEFAULT = "threshold"
BUILT_IN: Mapping[str, type[Rule]] = {
    "threshold": Threshold,
    "evidence": Evidence,
    "top_k": TopK,
    "halving": Halving,
}


class UnknownRule(ValueError):
    """No rule of this name, or one that cannot be loaded."""


def known() -> list[str]:
    """The names of all rules, the built-in ones first."""
    return [*BUILT_IN, *sorted({entry.name for entry in _registered()} - set(BUILT_IN))]


def rule_class(name: str) -> type[Rule]:
    """The rule of a name; raises UnknownRule, with the plug-in's own error where it has one."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    entries = {entry.value: entry for entry in _registered() if entry.name == name}
    if not entries:
        near = get_close_matches(name, known(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known())}"
        raise UnknownRule(f"there is no prune rule {name!r}; {hint}")
    if len(entries) > 1:
        raise UnknownRule(f"prune rule {name!r} is registered more than once: {', '.join(sorted(entries))}")
    return _load(next(iter(entries.values())))


@cache
def _registered() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


def _load(entry: EntryPoint) -> type[Rule]:
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:
        origin = entry.dist.name if entry.dist else "an unknown package"
        raise UnknownRule(
            f"prune rule {entry.name!r} ({entry.value} of {origin}) cannot be loaded: {in_words(error)}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Rule)):
        raise UnknownRule(
            f"prune rule {entry.name!r}: {entry.value} is not a subclass of orchestrator.rules.Rule"
        )
    if loaded.__abstractmethods__:
        raise UnknownRule(f"prune rule {entry.name!r}: {entry.value} does not define judge")
    if not isinstance(loaded.scope, Scope):
        raise UnknownRule(f"prune rule {entry.name!r}: the scope of {entry.value} is no Scope")
    return loaded


def parse_rule(value: Any) -> Any:
    """Settings validated by the rule's own class; anything else is left to the validation that follows."""
    if not isinstance(value, Mapping):
        return value
    name = value.get("rule", DEFAULT)
    if not isinstance(name, str):
        raise ValueError(f"rule: expected the name of a prune rule, not {name!r}")
    rule = rule_class(name)
    try:
        return rule.model_validate({**value, "rule": name})
    except ValidationError:
        raise
    except (Exception, SystemExit) as error:  # of a plug-in: anything
        raise UnknownRule(
            f"the prune rule {name!r} failed to check its settings: {in_words(error)}"
        ) from error


AnyRule = Annotated[SerializeAsAny[Rule], BeforeValidator(parse_rule)]
