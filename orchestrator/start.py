"""Where `fsq` starts: `fsq status` shows the rounds at once, all else is for the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.glance import Glimpse


def main() -> None:
    """Runs `fsq`. The command line takes longer to import than `fsq status` should take."""
    try:
        if sys.argv[1:] == ["status"] and (rounds := rounds_at_a_glance()) is not None:
            from orchestrator.status import rounds_text

            _print(rounds_text(rounds))
        else:
            from orchestrator import cli

            cli.main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def rounds_at_a_glance() -> Sequence[Glimpse] | None:
    """The rounds in this machine's own database, without the settings, which take long to import; None for others."""
    from platformdirs import user_data_path

    from db import glance
    from orchestrator.paths import expanded

    environment = {name.upper(): value for name, value in os.environ.items()}
    if environment.get("FSQ_SERVER") or environment.get("FSQ_DATABASE_URL"):
        return None
    return glance.rounds(expanded(Path(environment.get("FSQ_HOME") or user_data_path("fsq"))) / "fsq.db")


def _print(text: str) -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # whatever the terminal cannot show
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads has seen enough; Python would complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
