"""What a run is called, and where it leaves its log."""

from __future__ import annotations

RUNS = "runs"  # the folder of the runs, in the home folder
LOG_FILE = "log.txt"


def run_name(round_name: str, task: str, stage: str, variant: str, seed: int) -> str:
    """What a job is called among those of all rounds."""
    return f"{round_name}/{task}/{stage}/{variant}/seed{seed}"


def run_dir(round_name: str, task: str, stage: str, variant: str, seed: int) -> str:
    """Where a job leaves its log, relative to the home folder."""
    return f"{RUNS}/{run_name(round_name, task, stage, variant, seed)}"
