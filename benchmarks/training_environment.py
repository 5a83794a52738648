"""Runs a benchmark as jobs run: in the environment of a training process, with its settings of torch."""

from __future__ import annotations

import os
import sys

from worker.child.reproducible import be_reproducible
from worker.process import environment


def as_in_training() -> None:
    """Starts this script again in that environment, if it is not there yet; what the user has set stays."""
    if environment() != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment())  # noqa: S606  (no shell)
    be_reproducible()
