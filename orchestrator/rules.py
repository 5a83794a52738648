"""The prune rule: what a measured delta means.

`threshold` is the rule of the predecessor's rounds 20-42: promote when the variant's accuracy is at least
`min_delta` above its baseline's. It is a point decision: it knows no noise. Where one answer token of the
validation set is larger than `min_delta`, or the run-to-run spread is, it promotes and prunes by chance; the
caveats say so beside every number.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from worker.job import Strict

# Accuracies are ratios of token counts, so distinct deltas differ by far more than this; it only absorbs
# binary rounding: 0.2010 - 0.2000 counts as 0.0010.
ROUNDING = 1e-9

Metric = Literal["best_val_tok_acc", "final_val_tok_acc", "best_val_seq_acc"]


class Threshold(Strict):
    """Promote what is at least `min_delta` (a fraction: 0.001 is +0.10 pp) above the baseline."""

    rule: Literal["threshold"] = "threshold"
    min_delta: Annotated[float, Field(ge=-1, le=1)] = 0.001
    metric: Metric = "best_val_tok_acc"

    def promotes(self, delta: float) -> bool:
        """Whether a delta (fraction) is large enough; one exactly at the threshold is."""
        return delta >= self.min_delta - ROUNDING
