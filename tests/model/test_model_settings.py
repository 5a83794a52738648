import json
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from model_samples import settings_of
from pydantic import ValidationError

from model.errors import SettingsError
from model.settings import FutureSeedSettings


def test_settings__defaults() -> None:
    assert FutureSeedSettings().model_dump() == {
        "gate": "scalar",
        "layer_start": 1,
        "alpha_init": -2.0,
        "alpha_lr": 0.0,
        "alpha_head_init": None,
        "alpha_head_lr": None,
        "gate_w_lr": None,
        "gate_b_lr": None,
        "norm": True,
        "detach": True,
        "clip": 1.0,
        "seed_scale": 1.0,
        "schedule": "none",
        "schedule_min": 1.0,
        "schedule_max": 1.0,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gates": "head"}, "Extra inputs are not permitted"),
        ({"gate": "heads"}, "'scalar', 'head' or 'input'"),
        ({"alpha_init": math.nan}, "finite number"),
        ({"seed_scale": math.inf}, "finite number"),
        ({"layer_start": -1}, "greater than or equal to 0"),
        ({"layer_start": True}, "valid integer"),
        ({"alpha_init": "-2"}, "valid number"),
        ({"alpha_lr": -1e-4}, "greater than or equal to 0"),
        ({"clip": -1.0}, "greater than or equal to 0"),
        ({"alpha_head_init": -3.0}, "alpha_head_init = -3.0 has no meaning for gate: scalar"),
        ({"gate": "input", "alpha_head_lr": 1e-3}, "alpha_head_lr = 0.001 has no meaning for gate: input"),
        ({"gate": "head", "gate_b_lr": 1e-3}, "gate_b_lr = 0.001 has no meaning for gate: head"),
        (
            {"schedule": "linear", "schedule_min": 1e300, "seed_scale": 1e300},
            "seed_scale = 1e.300, schedule_min = 1e.300 and schedule_max = 1.0 give factors that are not finite",
        ),
        (
            {"schedule": "cosine", "schedule_min": -1e308, "schedule_max": 1e308},
            "give factors that are not finite",
        ),
        (
            {"schedule_min": 0.4},
            "schedule_min = 0.4 and schedule_max = 1.0 have no meaning for schedule: none",
        ),
    ],
)
def test_settings__rejects(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FutureSeedSettings(**values)


def test_settings__are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FutureSeedSettings().clip = 2.0  # type: ignore[misc]


@given(settings_of())
def test_settings__survive_json(settings: FutureSeedSettings) -> None:
    assert FutureSeedSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("schedule", "start", "n_layer", "expected"),
    [
        ("cosine", 8, 12, [0.4, 0.55, 0.85, 1.0]),
        ("cosine", 10, 12, [0.4, 1.0]),
        ("linear", 8, 12, [0.4, 0.6, 0.8, 1.0]),
        ("linear", 0, 4, [0.4, 0.7, 1.0]),
        ("linear", 11, 12, [0.4]),
    ],
)
def test_multiplier__over_depth(schedule: Any, start: int, n_layer: int, expected: list[float]) -> None:
    settings = FutureSeedSettings(schedule=schedule, layer_start=start, schedule_min=0.4, schedule_max=1.0)
    assert list(settings.layers(n_layer)) == list(range(n_layer - len(expected), n_layer))
    assert [settings.multiplier(i, n_layer) for i in settings.layers(n_layer)] == pytest.approx(expected)


@pytest.mark.parametrize("layer", [0, 7, 12])
def test_multiplier__of_a_layer_without_seed(layer: int) -> None:
    with pytest.raises(
        SettingsError, match=rf"layer {layer} of 12 receives no seed: expected one of \[8, 9, 10, 11\]"
    ):
        FutureSeedSettings(layer_start=8).multiplier(layer, 12)


@pytest.mark.parametrize(
    "values",
    [
        {"layer_start": 12},
        {"layer_start": 13},
        {"seed_scale": 0.0},
        {"seed_scale": -0.0, "alpha_lr": 1e-4},
        {"schedule": "cosine", "schedule_min": 0.0, "schedule_max": 0.0},
        {"layer_start": 11, "schedule": "linear", "schedule_min": 0.0, "schedule_max": 1.0},
    ],
)
def test_canonical__no_op(values: dict[str, Any]) -> None:
    assert FutureSeedSettings(**values).canonical(12) is None


def test_canonical__one_layer_has_nothing_to_seed() -> None:
    assert FutureSeedSettings().canonical(1) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"layer_start": 0}, {"layer_start": 1}),
        ({"gate": "head"}, {"gate": "head", "alpha_head_init": -2.0, "alpha_head_lr": 0.0}),
        (
            {"gate": "input", "alpha_lr": 1e-3},
            {"gate": "input", "alpha_lr": 1e-3, "gate_w_lr": 1e-3, "gate_b_lr": 1e-3},
        ),
        ({"gate": "input", "gate_w_lr": 0.0, "gate_b_lr": 0.0, "alpha_lr": 1e-4}, {"alpha_lr": 1e-4}),
        ({"schedule": "linear"}, {"schedule": "cosine"}),
        ({"schedule": "linear"}, {}),
        ({"schedule": "cosine", "schedule_min": 0.5, "schedule_max": 0.5}, {"seed_scale": 0.5}),
        (
            {"layer_start": 11, "schedule": "cosine", "schedule_min": 0.5},
            {"layer_start": 11, "schedule": "linear", "schedule_min": 0.5, "schedule_max": 9.0},
        ),
        (
            {"layer_start": 10, "schedule": "cosine", "schedule_min": 0.4},
            {"layer_start": 10, "schedule": "linear", "schedule_min": 0.4},
        ),
        ({"alpha_init": 0.0}, {"alpha_init": -0.0}),
    ],
)
def test_canonical__same_bits_same_form(one: dict[str, Any], other: dict[str, Any]) -> None:
    forms = [FutureSeedSettings(**values).canonical(12) for values in (one, other)]
    assert forms[0] is not None
    assert forms[0] == forms[1]
    assert forms[0].model_dump_json() == forms[1].model_dump_json()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "values",
    [
        {"layer_start": 2},
        {"alpha_init": -3.0},
        {"alpha_lr": 1e-4},
        {"norm": False},
        {"detach": False},
        {"clip": 0.7},
        {"clip": 0.0},
        {"seed_scale": 0.5},
        {"gate": "head"},
        {"gate": "input", "gate_b_lr": 1e-4},
        {"schedule": "linear", "schedule_min": 0.4},
        {"schedule": "cosine", "schedule_min": 0.4},
    ],
)
def test_canonical__different_computations_differ(values: dict[str, Any]) -> None:
    form = FutureSeedSettings(**values).canonical(12)
    assert form is not None
    assert form != FutureSeedSettings().canonical(12)


@given(settings_of(), st.integers(1, 8))
def test_canonical__is_a_fixed_point_with_the_same_scales(settings: FutureSeedSettings, n_layer: int) -> None:
    form = settings.canonical(n_layer)
    scales = [settings.scale(i, n_layer) for i in settings.layers(n_layer)]
    assert (form is None) == (not any(scales))
    assume(form is not None)
    assert form is not None
    again = form.canonical(n_layer)
    assert again is not None
    assert json.dumps(again.model_dump()) == json.dumps(form.model_dump())
    assert [form.scale(i, n_layer) for i in form.layers(n_layer)] == scales
