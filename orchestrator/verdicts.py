"""What can be concluded for a variant."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What was concluded for a variant at a stage."""

    PROMOTED = "promoted"  # good enough against the baseline of the same stage, by the round's rule
    PRUNED = "pruned"  # not so at the first stage: goes no further
    REJECTED = "rejected"  # promoted before, not borne out at a later stage
    CONFIRMED = "confirmed"  # borne out on fresh seeds and unseen validation data
    NO_OP = "no_op"  # computes the same as the baseline: not run
    UNDECIDED = "undecided"  # could not be measured; no verdict on the variant


# against the variant; without a delta its run diverged or was stopped
AGAINST = frozenset({Verdict.PRUNED, Verdict.REJECTED})
