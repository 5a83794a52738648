"""A variant at a stage: its trials so far, and the decision that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from orchestrator.messages import one_line
from orchestrator.points import difference, points, rounded
from orchestrator.rules import RuleFailed, Ruling, Trial
from orchestrator.search import Decision, JobKey, Measurement, SearchSpec
from orchestrator.statistics.examples import Outcomes, standard_error
from orchestrator.statistics.seeds import estimate_if_known
from orchestrator.verdicts import Verdict
from worker.job import WITHOUT_A_NUMBER, in_words


class Judged:
    """A variant at a stage: its trials so far, and what follows from them."""

    def __init__(self, spec: SearchSpec, key: JobKey) -> None:
        self.spec, self.key = spec, key
        self.trials: list[Trial] = []
        self.losses: list[float | None] = []
        self.failure: tuple[Verdict, str] | None = None  # a run that ended without a number

    def add(self, seed: int, variant: Measurement, baseline: Measurement) -> None:
        """One more seed, against a measured baseline."""
        if variant.outcome in WITHOUT_A_NUMBER:
            self.fail(self._failed, variant.failure)
        elif variant.score is None or baseline.score is None:
            self.fail(Verdict.UNDECIDED, variant.failure)
        else:
            error = _standard_error(variant.outcomes, baseline.outcomes)
            self.trials.append(Trial(seed, difference(variant.score, baseline.score), error))
            if variant.loss is None or baseline.loss is None:
                self.losses.append(None)
            else:
                self.losses.append(difference(variant.loss, baseline.loss))

    def fail(self, verdict: Verdict, reason: str) -> None:
        self.failure = verdict, reason

    @property
    def is_rival(self) -> bool:
        """Whether others are compared with it; the control takes no variant's place."""
        return self.failure is None and self.key.variant != self.spec.control

    @property
    def _failed(self) -> Verdict:
        return Verdict.PRUNED if self.key.stage == self.spec.stages[0] else Verdict.REJECTED

    def decide(self, *, is_last: bool, rivals: Sequence[Sequence[Trial]] = ()) -> Decision | None:
        """The decision on it; None when the rule asks for another seed, and there is one."""
        if self.failure is not None:
            return Decision(self.key, *self.failure)
        ruling = self._ruling(rivals)
        if ruling is None and not is_last:
            return None
        if ruling is None:
            return self._decision(self._failed, f"not settled after {len(self.trials)} seeds")
        return self._decision(Verdict.PROMOTED if ruling.promotes else self._failed, ruling.reason)

    def _ruling(self, rivals: Sequence[Sequence[Trial]]) -> Ruling | None:
        rule = self.spec.rule
        try:
            return _as_ruling(rule.judge(self.trials, rivals))
        except (Exception, SystemExit) as error:  # of a plug-in: anything
            cause = in_words(error)
            place = f"{self.key.task}, {self.key.variant} at {self.key.stage}"
            raise RuleFailed(f"the prune rule {rule.rule!r} failed on {place}: {cause}") from error

    @property
    def is_tried(self) -> bool:
        """Whether it counts among those tried: it was measured, or ended in a verdict without a number."""
        return self.failure is None or self.failure[0] is self._failed

    @property
    def p_value(self) -> float | None:
        """Of its gain, over seeds and examples; None where the examples' part is not known; 1 without a number."""
        if self.failure is not None:
            return 1.0
        deltas, errors = [each.delta for each in self.trials], [each.standard_error for each in self.trials]
        found = estimate_if_known(deltas, errors)
        return None if found is None else found.p_value

    def confirm(self, discovery: float | None, level: float) -> Decision:
        """The decision on it at the last stage; `discovery`: its q-value among all that came so far."""
        if self.failure is not None:
            return Decision(self.key, *self.failure)
        assert discovery is not None  # noqa: S101  (whatever was measured has one)
        is_borne_out = discovery <= level
        compared = "within" if is_borne_out else "above"
        reason = (
            f"{points(fmean(trial.delta for trial in self.trials))} over {len(self.trials)} fresh seeds, "
            f"false-discovery level {discovery:.3f} {compared} {level:g}"
        )
        return self._decision(Verdict.CONFIRMED if is_borne_out else Verdict.REJECTED, reason)

    def _decision(self, verdict: Verdict, reason: str) -> Decision:
        losses = [loss for loss in self.losses if loss is not None]
        seeds = tuple(trial.seed for trial in self.trials)
        return Decision(
            self.key,
            verdict,
            reason,
            rounded(fmean(trial.delta for trial in self.trials)),
            rounded(fmean(losses)) if len(losses) == len(self.trials) else None,
            seeds if seeds != (self.key.seed,) else (),
        )


def _as_ruling(given: Any) -> Ruling | None:
    """What a rule gave, its reason as one line of text; raises TypeError where it is neither a ruling nor None."""
    if given is None:
        return None
    if (
        not isinstance(given, Ruling)
        or given.promotes not in (True, False)
        or not isinstance(given.reason, str)
    ):
        raise TypeError(f"judge gave {given!r}, and not a Ruling with a truth value and a text")
    return Ruling(bool(given.promotes), one_line(given.reason))


def _standard_error(variant: Outcomes | None, baseline: Outcomes | None) -> float | None:
    if variant is None or baseline is None or len(variant.of) < 2:
        return None
    return standard_error([a - b for a, b in zip(variant.right, baseline.right, strict=True)], variant.of)
