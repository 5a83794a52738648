"""Where `fsq` starts: `fsq status` shows the rounds at once, all else is for the command line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.glance import Glimpse


# of an output without a name: the disk, or what one may have of it, is full; the device fails
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main() -> None:
    """Runs `fsq`; output that cannot be written is an error like others."""
    try:
        try:
            _run()
        finally:
            if sys.stdout is not None:  # `>&-`
                sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in {errno.EPIPE, *_UNWRITABLE}:
            raise
        # whoever reads has seen enough, or cannot be told; Python would complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            print(f"fsq: the output cannot be written: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None


def _run() -> None:
    """The command line takes longer to import than `fsq status` should take."""
    try:
        if sys.argv[1:] == ["status"] and (rounds := rounds_at_a_glance()) is not None:
            from orchestrator.terminal.status import rounds_text

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
    print(text)
