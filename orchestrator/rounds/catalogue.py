"""The built-in catalogue of Future-Seed variants, and grids of them.

The catalogue holds the predecessor's named variants of rounds 21 and later. Where it used one name for different
settings over time, the settings of the latest rounds stand here, but for `scalar_l8_trainable`, which is that of
rounds 21 to 28.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import product
from typing import Any

from worker.job import BASELINE, FutureSeedSettings, sha256_of

MAX_NAME = 100
MAX_VARIANTS = 1000


def _scalar(layer_start: int, **changes: Any) -> FutureSeedSettings:
    return FutureSeedSettings(layer_start=layer_start, **changes)


def _cosine(layer_start: int, floor: float = 0.4) -> FutureSeedSettings:
    return _scalar(layer_start, schedule="cosine", schedule_min=floor, schedule_max=1.0)


def _head(layer_start: int, **changes: Any) -> FutureSeedSettings:
    weak = {"alpha_init": -3.0, "alpha_head_init": -3.0, "alpha_head_lr": 5e-4}
    return FutureSeedSettings(gate="head", layer_start=layer_start, **(weak | changes))


_STRONG: dict[str, Any] = {"alpha_init": -2.0, "alpha_head_init": -2.0, "alpha_head_lr": 1e-3}

CATALOGUE: Mapping[str, FutureSeedSettings] = {
    "scalar_l10_norm_detach": _scalar(10, alpha_init=-3.0),
    "scalar_l12_norm_detach": _scalar(12, alpha_init=-3.0),
    "scalar_l10_nonorm_detach": _scalar(10, alpha_init=-3.0, norm=False),
    "inputgate_l10": FutureSeedSettings(
        gate="input", layer_start=10, alpha_init=-3.0, gate_w_lr=5e-4, gate_b_lr=5e-4
    ),
    "scalar_l8_norm_node": _scalar(8, detach=False),
    "scalar_l8_node": _scalar(8, detach=False),
    "scalar_l10_norm_node": _scalar(10, detach=False),
    "scalar_l8_nodetach": _scalar(8, alpha_lr=5e-4, detach=False),
    "scalar_l10_nodetach": _scalar(10, alpha_lr=5e-4, detach=False),
    "scalar_l6_trainable": _scalar(6, alpha_lr=5e-4),
    "scalar_l8_trainable": _scalar(8, alpha_lr=5e-4),
    "scalar_l10_trainable": _scalar(10, alpha_lr=5e-4),
    "scalar_l8_train5e5": _scalar(8, alpha_lr=5e-5),
    "scalar_l8_train8e5": _scalar(8, alpha_lr=8e-5),
    "scalar_l8_train1e4": _scalar(8, alpha_lr=1e-4),
    "scalar_l8_train1e4_clip07": _scalar(8, alpha_lr=1e-4, clip=0.7),
    "scalar_l6_train1e4": _scalar(6, alpha_lr=1e-4),
    "scalar_l10_train1e4": _scalar(10, alpha_lr=1e-4),
    "scalar_l8_train_lr1e4": _scalar(8, alpha_lr=1e-4),
    "scalar_l8_train_lr2e4": _scalar(8, alpha_lr=2e-4),
    "scalar_l8_train_lr5e4": _scalar(8, alpha_lr=5e-4),
    "scalar_l6_train_lr2e4": _scalar(6, alpha_lr=2e-4),
    "scalar_l6_sched_cos": _cosine(6),
    "scalar_l8_sched_cos": _cosine(8),
    "scalar_l10_sched_cos": _cosine(10),
    "scalar_l12_sched_cos": _cosine(12),
    "scalar_l10_sched_gentle": _cosine(10, floor=0.7),
    "scalar_l8_sched_cos_highfloor": _cosine(8, floor=0.6),
    "scalar_l8_sched_ultra": _cosine(8, floor=0.8),
    "head_l6": _head(6),
    "head_l8": _head(8),
    "head_l10": _head(10),
    "head_l8_nodetach": _head(8, detach=False),
    "head_l8_strong": _head(8, **_STRONG),
    "head_l10_strong": _head(10, **_STRONG),
    "head_l10_midlr": _head(10, **(_STRONG | {"alpha_head_lr": 7e-4})),
    "head_l10_sched_cos": _head(10, **_STRONG, schedule="cosine", schedule_min=0.5, schedule_max=1.0),
    "head_l10_clip07": _head(10, **_STRONG, clip=0.7),
    "head_l10_nodetach_clip07": _head(10, **_STRONG, detach=False, clip=0.7),
}


class UnknownVariant(ValueError):
    """A name that is not in the catalogue."""

    def __init__(self, name: str) -> None:
        near = get_close_matches(name, [*CATALOGUE, BASELINE], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown variant {name!r}{hint} (`fsq variants` lists the catalogue)")


def look_up(name: str) -> FutureSeedSettings:
    """The catalogue's settings of a name; raises UnknownVariant with the nearest one."""
    if name not in CATALOGUE:
        raise UnknownVariant(name)
    return CATALOGUE[name]


def expand_grid(grid: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every combination of the listed values, named after what varies: layer_start=10_alpha_init=-2.

    A name that would be too long ends with a number made from all of it. Values that are not lists are the same in
    all. Raises ValueError when the grid is empty or too large.
    """
    axes = {key: value if isinstance(value, list) else [value] for key, value in grid.items()}
    if not axes:
        raise ValueError("the grid is empty; give it options with the values to try")
    varying = [key for key, values in axes.items() if len(values) > 1]
    size = 1
    for key, values in axes.items():
        if not values:
            raise ValueError(f"{key} has no values")
        size *= len(values)
    if size > MAX_VARIANTS:
        raise ValueError(f"the grid has {size:,} variants; at most {MAX_VARIANTS:,} are accepted")
    for combination in product(*axes.values()):
        settings = dict(zip(axes, combination, strict=True))
        yield _short("_".join(f"{key}={settings[key]}" for key in varying or axes)), settings


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 9]}.{sha256_of(name)[:8]}"
