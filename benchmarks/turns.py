"""Processes with different environments that do the same and take turns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any


def in_turns(
    script: str, work: str, environments: Mapping[str, dict[str, str]], turns: int
) -> Iterator[tuple[str, Any]]:
    """Each environment, and what `script --measure work` printed as JSON in it; every turn in the other order."""
    for turn in range(turns):
        for name in list(environments)[:: -1 if turn % 2 else 1]:
            command = [sys.executable, script, "--measure", work]
            done = subprocess.run(
                command, env=environments[name], check=True, stdout=subprocess.PIPE, text=True
            )
            yield name, json.loads(done.stdout)
