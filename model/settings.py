"""Future-Seed settings: validation, the schedule over depth, and the canonical form for fingerprints."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from model.errors import SettingsError


def _positive_zero(value: float) -> float:
    return value + 0.0  # -0.0 equals 0.0 but is written differently, and fingerprints are made from text


Finite = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_positive_zero)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_positive_zero)]

_HEAD_ONLY = ("alpha_head_init", "alpha_head_lr")
_INPUT_ONLY = ("gate_w_lr", "gate_b_lr")


class FutureSeedSettings(BaseModel):
    """How the final state of each layer seeds the next one in the prompt pass (formula: `model.future_seed`).

    Learning rates of 0 mean fixed. Options that have no meaning for the chosen gate or schedule are rejected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    gate: Literal["scalar", "head", "input"] = "scalar"
    layer_start: Annotated[int, Field(ge=0)] = 1
    alpha_init: Finite = -2.0
    alpha_lr: NonNegative = 0.0
    alpha_head_init: Finite | None = None
    """Gate `head` only; default `alpha_init`."""
    alpha_head_lr: NonNegative | None = None
    """Gate `head` only; default `alpha_lr`."""
    gate_w_lr: NonNegative | None = None
    """Gate `input` only; default `alpha_lr`."""
    gate_b_lr: NonNegative | None = None
    """Gate `input` only; default `alpha_lr`."""
    norm: bool = True
    detach: bool = True
    clip: NonNegative = 1.0
    """Largest absolute value of a seed; 0 does not clip."""
    seed_scale: Finite = 1.0
    schedule: Literal["none", "linear", "cosine"] = "none"
    schedule_min: Finite = 1.0
    schedule_max: Finite = 1.0

    @model_validator(mode="after")
    def _reject_options_without_meaning(self) -> Self:
        for gate, names in (("head", _HEAD_ONLY), ("input", _INPUT_ONLY)):
            for name in names:
                if self.gate != gate and getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} = {getattr(self, name)} has no meaning for gate: {self.gate}; "
                        f"remove it or set gate: {gate}"
                    )
        if self.schedule == "none" and (self.schedule_min, self.schedule_max) != (1.0, 1.0):
            raise ValueError(
                f"schedule_min = {self.schedule_min} and schedule_max = {self.schedule_max} have no meaning "
                "for schedule: none; remove them or set schedule: linear or cosine"
            )
        # schedule(i) lies between these two, and what lies between them is computed from their difference
        scales = (
            self.schedule_max - self.schedule_min,
            *(self.seed_scale * end for end in (self.schedule_min, self.schedule_max)),
        )
        if not all(map(math.isfinite, scales)):
            raise ValueError(
                f"seed_scale = {self.seed_scale}, schedule_min = {self.schedule_min} and schedule_max = "
                f"{self.schedule_max} give factors that are not finite"
            )
        return self

    def layers(self, n_layer: int) -> range:
        """Return the layers that receive a seed; layer 0 has none before it and never does."""
        return range(max(1, self.layer_start), n_layer)

    def multiplier(self, layer: int, n_layer: int) -> float:
        """Return schedule(layer): 1, or from `schedule_min` to `schedule_max` over the seeded layers.

        Raises `SettingsError` for a layer that receives no seed.
        """
        seeded = self.layers(n_layer)
        if layer not in seeded:
            raise SettingsError(
                f"layer {layer} of {n_layer} receives no seed: expected one of {list(seeded)}"
            )
        if self.schedule == "none":
            return 1.0
        p = (layer - seeded.start) / (n_layer - 1 - seeded.start) if len(seeded) > 1 else 0.0
        if self.schedule == "cosine":
            p = (1.0 - math.cos(math.pi * p)) / 2.0
        return self.schedule_min + (self.schedule_max - self.schedule_min) * p

    def scale(self, layer: int, n_layer: int) -> float:
        """Return the factor on the gated seed of a layer: `seed_scale * schedule(layer)`."""
        return self.seed_scale * self.multiplier(layer, n_layer)

    def canonical(self, n_layer: int) -> "FutureSeedSettings | None":
        """Return the normal form for a model of `n_layer` layers: None if it is the same as no Future-Seed.

        Settings with equal normal forms compute the same: what runs is the normal form.
        """
        scales = [self.scale(layer, n_layer) for layer in self.layers(n_layer)]
        if not any(scales):
            return None
        changes = {"layer_start": max(1, self.layer_start)} | self._canonical_gate()
        if self.schedule != "none":
            changes |= self._canonical_schedule(scales, n_layer)
        return self.model_validate(self.model_dump() | changes)

    def _canonical_gate(self) -> dict[str, object]:
        if self.gate == "head":
            init = self.alpha_init if self.alpha_head_init is None else self.alpha_head_init
            lr = self.alpha_lr if self.alpha_head_lr is None else self.alpha_head_lr
            return {"alpha_head_init": init, "alpha_head_lr": lr}
        if self.gate == "input":
            w_lr = self.alpha_lr if self.gate_w_lr is None else self.gate_w_lr
            b_lr = self.alpha_lr if self.gate_b_lr is None else self.gate_b_lr
            if w_lr == b_lr == 0.0:  # w and b stay at zero, where they start
                return {"gate": "scalar", "gate_w_lr": None, "gate_b_lr": None}
            return {"gate_w_lr": w_lr, "gate_b_lr": b_lr}
        return {}

    def _canonical_schedule(self, scales: list[float], n_layer: int) -> dict[str, object]:
        if len(set(scales)) == 1:
            return {"schedule": "none", "schedule_min": 1.0, "schedule_max": 1.0, "seed_scale": scales[0]}
        linear = self.model_copy(update={"schedule": "linear"})
        if scales == [linear.scale(layer, n_layer) for layer in self.layers(n_layer)]:
            return {"schedule": "linear"}
        return {}
