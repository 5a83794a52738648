"""Where `fsq` starts: `fsq status` shows the rounds at once, all else is for the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_data_path

from db import glance


def main() -> None:
    """Runs `fsq`. The command line takes longer to import than `fsq status` should take."""
    if sys.argv[1:] == ["status"] and (rounds := rounds_at_a_glance()) is not None:
        from orchestrator.status import rounds_text

        _print(rounds_text(rounds))
    else:
        from orchestrator import cli

        cli.main()


def rounds_at_a_glance() -> Sequence[glance.Glimpse] | None:
    """The rounds in this machine's own database, without the settings, which take long to import; None for others."""
    environment = {name.upper(): value for name, value in os.environ.items()}
    if environment.get("FSQ_SERVER") or environment.get("FSQ_DATABASE_URL"):
        return None
    return glance.rounds(Path(environment.get("FSQ_HOME", user_data_path("fsq"))) / "fsq.db")


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads has seen enough; Python would complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
