"""What ends a job other than success, each with its Outcome; then what keeps a worker from its device or the hub."""

from __future__ import annotations

from worker.job import Outcome


class JobFailed(Exception):
    """Ends the running job; `outcome` says how."""

    outcome: Outcome = Outcome.CRASHED


class Diverged(JobFailed):
    """The loss is NaN or infinite."""

    outcome = Outcome.DIVERGED


class OutOfMemory(JobFailed):
    """One example does not fit into the accelerator's memory."""

    outcome = Outcome.OOM


class BuildFailed(JobFailed):
    """The examples cannot be built, or are not those the round was submitted with."""

    outcome = Outcome.BUILD_FAILED


class InfrastructureFailed(JobFailed):
    """Network, disk or hub; another attempt may succeed."""

    outcome = Outcome.INFRA_FAILED


class Unreachable(Exception):
    """The hub, the network or a disk failed: nothing is known, and trying again may help."""


class DeviceBusy(Exception):
    """The lock of this device cannot be taken: another worker holds it, or this one may not write there."""


class NoSuchDevice(Exception):
    """The device that was asked for is not on this machine."""


class BadFailureTable(Exception):
    """The user's table of log patterns cannot be used."""
