import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import live_model, live_state_dict, random_tokens, settings_of
from official_package import official_forward, official_model
from torch import Tensor

from model.errors import SettingsError
from model.future_seed import FutureSeed
from model.rwkv7 import RWKV7
from model.settings import FutureSeedSettings
from model.shapes import ModelShape

SHAPE = ModelShape.random(layers=5, dim=16, vocab=20, head_size=8)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def plain_seed(seed: FutureSeed, layer: int, sT: Tensor, x_last: Tensor, n_layer: int) -> Tensor:
    """The formula of DESIGN.md number by number, in Python's float64."""
    s = seed.settings
    start = max(1, s.layer_start)
    p = (layer - start) / (n_layer - 1 - start) if n_layer - 1 > start else 0.0
    lo, hi = s.schedule_min, s.schedule_max
    depth = {
        "none": 1.0,
        "linear": lo + (hi - lo) * p,
        "cosine": lo + (hi - lo) * (1 - math.cos(math.pi * p)) / 2,
    }
    parameters = {name: x.detach().tolist() for name, x in seed.named_parameters()}
    result = []
    for row, state in enumerate(sT.tolist()):
        heads = []
        for head, matrix in enumerate(state):
            values = [value for line in matrix for value in line]
            rms = math.sqrt(sum(value * value for value in values) / len(values)) if s.norm else 1.0
            score = parameters["alpha"][layer]
            if s.gate == "input":
                x = x_last[row].tolist()
                dot = sum(one * other for one, other in zip(x, parameters["w"][layer], strict=True))
                score += dot / math.sqrt(len(x)) + parameters["b"][layer]
            gate = sigmoid(score) * (
                sigmoid(parameters["alpha_head"][layer][head]) if s.gate == "head" else 1.0
            )
            factor = gate * s.seed_scale * depth[s.schedule] / (max(rms, 1e-6) if s.norm else 1.0)
            limit = s.clip if s.clip > 0 else math.inf
            heads.append([[max(-limit, min(limit, value * factor)) for value in line] for line in matrix])
        result.append(heads)
    return torch.tensor(result)


def trained(config: FutureSeedSettings, shape: ModelShape = SHAPE) -> FutureSeed:
    """A module whose parameters have moved away from where they start."""
    seed = FutureSeed(config, shape)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in seed.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    return seed


@given(config=settings_of(), size=st.sampled_from([0.0, 1e-8, 1.0, 30.0]))
def test_initial_state__is_the_formula(config: FutureSeedSettings, size: float) -> None:
    seed = trained(config)
    generator = torch.Generator().manual_seed(4)
    sT = size * torch.randn(2, 2, 8, 8, generator=generator)
    x_last = torch.randn(2, 16, generator=generator)
    for layer in seed.layers:
        found = seed.initial_state(layer, sT, x_last).detach()
        torch.testing.assert_close(found, plain_seed(seed, layer, sT, x_last, 5), atol=1e-5, rtol=1e-4)


def test_initial_state__strength_of_the_predecessors_variants() -> None:
    sT = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))

    def strength(**values: Any) -> float:
        seed = FutureSeed(FutureSeedSettings(**values), SHAPE).initial_state(4, sT, torch.zeros(1, 16))
        return float(seed.detach().square().mean().sqrt())

    assert strength(alpha_init=-2.0) == pytest.approx(0.119, abs=1e-3)
    assert strength(alpha_init=-3.0) == pytest.approx(0.047, abs=1e-3)
    assert strength(gate="head", alpha_init=-3.0) == pytest.approx(0.0022, abs=1e-4)
    assert strength(gate="head", alpha_init=-2.0) == pytest.approx(0.0142, abs=1e-4)
    assert strength(gate="head", alpha_init=-3.0, alpha_head_init=0.0) == pytest.approx(0.0237, abs=1e-4)


@pytest.mark.parametrize("layer", [0, 2, 5])
def test_initial_state__of_a_layer_without_seed(layer: int) -> None:
    seed = FutureSeed(FutureSeedSettings(layer_start=3), SHAPE)
    with pytest.raises((SettingsError, IndexError), match=r"receives no seed|out of bounds"):
        seed.initial_state(layer, torch.zeros(1, 2, 8, 8), torch.zeros(1, 16))


def test_parameter_groups__one_for_each_kind_that_is_trained() -> None:
    def groups(**values: Any) -> list[tuple[tuple[int, ...], float, float]]:
        seed = FutureSeed(FutureSeedSettings(**values), SHAPE)
        found = seed.parameter_groups()
        learning = {id(parameter) for parameter in seed.parameters() if parameter.requires_grad}
        assert {id(parameter) for group in found for parameter in group["params"]} == learning
        return [(tuple(g["params"][0].shape), g["lr"], g["weight_decay"]) for g in found]

    assert groups() == []
    assert groups(alpha_lr=1e-4) == [((5,), 1e-4, 0.0)]
    assert groups(gate="head", alpha_head_lr=5e-4) == [((5, 2), 5e-4, 0.0)]
    assert groups(gate="head", alpha_lr=1e-4) == [((5,), 1e-4, 0.0), ((5, 2), 1e-4, 0.0)]
    assert groups(gate="input", alpha_lr=1e-4, gate_b_lr=0.0) == [((5,), 1e-4, 0.0), ((5, 16), 1e-4, 0.0)]
    assert groups(gate="input", gate_w_lr=1e-3, gate_b_lr=1e-2) == [((5, 16), 1e-3, 0.0), ((5,), 1e-2, 0.0)]


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("detach", [True, False])
def test_initial_state__gradient_flows_into_the_state_unless_detached(detach: bool, norm: bool) -> None:
    seed = FutureSeed(FutureSeedSettings(detach=detach, norm=norm, clip=0.0, alpha_lr=1e-4), SHAPE)
    sT = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = seed.initial_state(1, sT, torch.zeros(2, 16))[..., 0].sum()
    state_gradient, gate_gradient = torch.autograd.grad(loss, [sT, seed.alpha], allow_unused=True)
    assert (state_gradient is None) == detach
    assert state_gradient is None or float(state_gradient.abs().max()) > 1e-3
    assert gate_gradient.nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("detach", [True, False])
def test_forward__gradient_reaches_the_layer_before_unless_detached(detach: bool) -> None:
    net, tokens = live_model(layers=2), random_tokens(1, 10)
    seed = FutureSeed(FutureSeedSettings(detach=detach), net.shape)
    _, state = net(tokens, future_seed=seed)
    constant = seed.initial_state(1, state[0].wkv, torch.zeros(1, 64)).detach()
    zero = [layer._replace(wkv=torch.zeros_like(layer.wkv)) for layer in state]
    start = [x._replace(att_shift=torch.zeros(1, 64), ffn_shift=torch.zeros(1, 64)) for x in zero]
    _, same = net(tokens, (start[0], start[1]._replace(wkv=constant)))
    decays = net.blocks[0].att.get_parameter("w0")
    found, without = (torch.autograd.grad(x[1].wkv.square().sum(), decays)[0] for x in (state, same))
    assert torch.equal(state[1].wkv, same[1].wkv)
    assert torch.allclose(found, without, rtol=1e-3, atol=1e-5) == detach


def test_initial_state__gradient_of_an_empty_state_is_finite() -> None:
    seed = FutureSeed(FutureSeedSettings(detach=False), SHAPE)
    sT = torch.zeros(1, 2, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(seed.initial_state(1, sT, torch.zeros(1, 16)).sum(), sT)
    assert gradient.isfinite().all()


VARIANTS: list[dict[str, Any]] = [
    {},
    {"norm": False, "clip": 0.05},
    {"gate": "head", "layer_start": 2},
    {"schedule": "cosine", "schedule_min": 0.4, "alpha_init": 1.0},
    {"gate": "input", "seed_scale": -0.5},
]


@pytest.mark.parametrize("values", VARIANTS)
@torch.no_grad()
def test_forward__agrees_with_the_official_package(tmp_path: Path, values: dict[str, Any]) -> None:
    """The unmodified package has no seeds, but running it L times converges: layer i is right in pass i + 1."""
    shape = ModelShape.random(4, 64, 50, head_size=32)
    tensors, tokens = live_state_dict(shape), random_tokens(1, 20)
    net, seed = RWKV7.from_state_dict(tensors), trained(FutureSeedSettings(**values), shape)
    entering: list[Tensor] = []
    for block in net.blocks:
        block.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0][:, -1]))
    hidden, state = net(tokens, future_seed=seed)
    official = official_model(dict(tensors), tmp_path)
    seeds = [torch.zeros(2, 32, 32) for _ in range(4)]
    for _ in range(4):
        logits, official_state = official_forward(official, tokens[0], seeds)
        for layer in seed.layers:
            previous = official_state[3 * (layer - 1) + 1][None]
            seeds[layer] = plain_seed(seed, layer, previous, entering[layer], 4)[0]
    assert float((logits - official_forward(official, tokens[0])[0]).abs().max()) > 1e-2
    torch.testing.assert_close(net.logits(hidden)[0], logits, atol=1e-4, rtol=0)
    for layer, parts in enumerate(state):
        torch.testing.assert_close(parts.wkv[0], official_state[3 * layer + 1], atol=1e-4, rtol=0)


@torch.no_grad()
def test_forward__adds_the_seed_to_an_explicit_state() -> None:
    net, tokens = live_model(layers=2), random_tokens(1, 10)
    seed = FutureSeed(FutureSeedSettings(norm=False, clip=0.0), net.shape)
    _, start = net(random_tokens(1, 5, seed=9))
    _, first = net(tokens, start)
    by_hand = (
        start[0],
        start[1]._replace(wkv=start[1].wkv + seed.initial_state(1, first[0].wkv, torch.zeros(1, 64))),
    )
    expected, _ = net(tokens, by_hand)
    found, _ = net(tokens, start, seed)
    assert torch.equal(found, expected)
    assert not torch.equal(found, net(tokens, start)[0])


@settings(max_examples=60)
@given(config=settings_of(), n_layer=st.integers(1, 4))
@torch.no_grad()
def test_canonical__computes_the_same_bits(config: FutureSeedSettings, n_layer: int) -> None:
    net = live_model(layers=n_layer, dim=16, vocab=20, head_size=8)
    tokens, lengths = random_tokens(2, 6, vocab=20), torch.tensor([6, 3])
    form = config.canonical(n_layer)
    found, state = net(tokens, future_seed=config, lengths=lengths)
    expected, expected_state = net(tokens, future_seed=form, lengths=lengths)
    assert torch.equal(found, expected)
    assert all(torch.equal(one.wkv, other.wkv) for one, other in zip(state, expected_state, strict=True))
    if form is not None:
        groups = [FutureSeed(x, net.shape).parameter_groups() for x in (config, form)]
        assert [group["lr"] for group in groups[0]] == [group["lr"] for group in groups[1]]


@pytest.mark.parametrize("values", [{"layer_start": 4}, {"seed_scale": 0.0}])
def test_forward__a_no_op_is_the_baseline_in_loss_and_gradients(values: dict[str, Any]) -> None:
    net, tokens = live_model(layers=3), random_tokens(2, 10)
    config = FutureSeedSettings(alpha_lr=1e-3, detach=False, **values)
    assert config.canonical(3) is None
    outcomes = []
    for future_seed in (None, FutureSeed(config, net.shape)):
        net.zero_grad()
        net.logits(net(tokens, future_seed=future_seed)[0]).square().sum().backward()
        outcomes.append([x.grad.clone() for x in net.parameters() if x.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))
