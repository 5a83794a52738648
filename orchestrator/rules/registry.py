"""Rules by name: the built-in ones, and those of installed packages; a broken plug-in harms only itself."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from orchestrator.rules.evidence import Evidence
from orchestrator.rules.halving import Halving
from orchestrator.rules.rule import Rule, Scope
from orchestrator.rules.threshold import Threshold
from orchestrator.rules.top_k import TopK
from worker.job import BrokenPlugIn, PlugIns, in_words

DEFAULT = "threshold"
BUILT_IN: Mapping[str, type[Rule]] = {
    "threshold": Threshold,
    "evidence": Evidence,
    "top_k": TopK,
    "halving": Halving,
}


_REGISTERED = PlugIns("fsq.rules", "prune rule", Rule, "orchestrator.rules.Rule")


class UnknownRule(ValueError):
    """No rule of this name, or one that cannot be loaded."""


def known() -> list[str]:
    """The names of all rules, the built-in ones first."""
    return [*BUILT_IN, *(name for name in _REGISTERED.names() if name not in BUILT_IN)]


def rule_class(name: str) -> type[Rule]:
    """The rule of a name; raises UnknownRule, with the plug-in's own error where it has one."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    try:
        rule = _REGISTERED.load(name)
    except BrokenPlugIn as error:
        raise UnknownRule(str(error)) from error
    if rule is None:
        near = get_close_matches(name, known(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known())}"
        raise UnknownRule(f"there is no prune rule {name!r}; {hint}")
    if not isinstance(rule.scope, Scope):
        raise UnknownRule(
            f"prune rule {name!r}: the scope of {rule.__module__}:{rule.__qualname__} is no Scope"
        )
    return rule


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
