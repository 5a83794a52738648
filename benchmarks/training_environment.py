"""Runs a benchmark as jobs run: in the environment of a training process."""

from __future__ import annotations

import os
import sys

from worker.process import ENVIRONMENT


def as_in_training() -> None:
    """Starts this script again in that environment, if it is not there yet; what the user has set stays."""
    wanted = ENVIRONMENT | os.environ
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)  # noqa: S606  (no shell)
