"""Prune rules: what measured deltas mean, one rule a file, each a pure function.

`threshold` is the default. Others come from installed packages by the entry point group `fsq.rules`: the entry's name
is the rule's, its object a subclass of `Rule`. Nothing here knows of jobs, rounds or databases.
"""

from orchestrator.rules.evidence import Evidence
from orchestrator.rules.halving import Halving
from orchestrator.rules.registry import AnyRule, UnknownRule, known, rule_class
from orchestrator.rules.rivals import Rivals
from orchestrator.rules.rule import Metric, Rule, RuleFailed, Ruling, Scope, Trial
from orchestrator.rules.threshold import Threshold
from orchestrator.rules.top_k import TopK

__all__ = [
    "AnyRule",
    "Evidence",
    "Halving",
    "Metric",
    "Rivals",
    "Rule",
    "RuleFailed",
    "Ruling",
    "Scope",
    "Threshold",
    "TopK",
    "Trial",
    "UnknownRule",
    "known",
    "rule_class",
]
