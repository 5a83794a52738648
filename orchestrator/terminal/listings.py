"""Tables for the terminal: variants, task kinds, tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def variant_table(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a variant: its name and what differs from the defaults."""
    width = max(map(len, variants))
    return "\n".join(
        f"{name:<{width}}  " + " ".join(f"{key}={_as_written(value)}" for key, value in settings.items())
        for name, settings in variants.items()
    )


def task_table(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """Each kind with its summary and its options: name, default, meaning."""
    blocks = []
    for name, kind in kinds.items():
        lines = [f"{name}: {kind['summary']}"]
        for option, facts in kind["options"].items():
            default = "required" if facts["required"] else _as_written(facts["default"])
            lines.append(f"  {option:<18} {default:<14} {facts['meaning']}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _as_written(value: Any) -> str:
    """As a round file would have it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_as_written(each)}' for key, each in value.items())}}}"
    return value if isinstance(value, str) else json.dumps(value)


def token_table(tokens: Sequence[Mapping[str, Any]]) -> str:
    """One line a token."""
    if not tokens:
        return "no tokens yet; make one with `fsq token create NAME`"
    width = max(len(token["name"]) for token in tokens)
    return "\n".join(
        f"{token['name']:<{width}}  {token['scope']:<6}  {'valid' if token['is_valid'] else 'void':<5}  "
        f"expires {token['expires_at'] or 'never'}"
        for token in tokens
    )
