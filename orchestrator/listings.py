"""Tables for the terminal: variants and task kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def variant_table(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a variant: its name and what differs from the defaults."""
    width = max(map(len, variants))
    return "\n".join(
        f"{name:<{width}}  " + " ".join(f"{key}={_plain(value)}" for key, value in settings.items())
        for name, settings in variants.items()
    )


def task_table(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """Each kind with its summary and its options: name, default, meaning."""
    blocks = []
    for name, kind in kinds.items():
        lines = [f"{name}: {kind['summary']}"]
        for option, (default, description) in kind["options"].items():
            lines.append(f"  {option:<18} {_plain(default):<14} {description}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
