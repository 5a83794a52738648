import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import live_model, live_state_dict, random_tokens
from official_package import official_forward, official_model
from torch import Tensor, nn
from torch.nn import functional as F

import model
from model import time_mix
from model.errors import CheckpointError, ShapeError
from model.rwkv7 import RWKV7
from model.settings import FutureSeedSettings
from model.shapes import ModelShape
from model.state import State

SEEDS = [None, FutureSeedSettings(), FutureSeedSettings(gate="input", norm=False, layer_start=2)]


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest) -> object:
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def assert_states_close(found: State, expected: State) -> None:
    for one, other in zip(found, expected, strict=True):
        for x, y in zip(one, other, strict=True):
            assert_close(x, y)


def rows(state: State, row: int) -> State:
    return tuple(type(layer)(*(x[row : row + 1] for x in layer)) for layer in state)


# ---- parity with the official code


@pytest.mark.parametrize("block0", [True, False])
@pytest.mark.parametrize("head_size", [32, 64, 128])
def test_forward__logits_and_state_of_the_official_package(
    tmp_path: Path, head_size: int, block0: bool
) -> None:
    shape = ModelShape.random(3, 128, 50, head_size)
    tensors = live_state_dict(ModelShape(**(vars(shape) | {"block0_value_residual": block0})))
    tokens = random_tokens(1, 40)
    logits, state = official_forward(official_model(dict(tensors), tmp_path), tokens[0])
    ours = RWKV7.from_state_dict(tensors)
    hidden, our_state = ours(tokens)
    assert_close(ours.logits(hidden)[0], logits)
    for layer, parts in enumerate(our_state):
        for found, expected in zip(parts, state[3 * layer : 3 * layer + 3], strict=True):
            assert_close(found[0], expected)
    assert float(logits.abs().max()) > 1


def test_forward__ranks_and_ffn_of_any_size(tmp_path: Path) -> None:
    sizes = {"decay_rank": 64, "rate_rank": 5, "value_rank": 64, "gate_rank": 17, "ffn_size": 99}
    tensors = live_state_dict(ModelShape(**(vars(ModelShape.random(3, 64, 33)) | sizes)))
    tokens = random_tokens(1, 30, vocab=33)
    logits, _ = official_forward(official_model(dict(tensors), tmp_path), tokens[0])
    ours = RWKV7.from_state_dict(tensors)
    assert_close(ours.logits(ours(tokens)[0])[0], logits)


@pytest.mark.parametrize("name", ["w", "a", "v", "g"])
def test_forward__low_rank_factors_in_the_wrong_order_would_show(name: str) -> None:
    tensors = live_state_dict(ModelShape.random(3, 64, 50))
    swapped = dict(tensors)
    for layer in range(3):
        first, second = (f"blocks.{layer}.att.{name}{i}" for i in (1, 2))
        swapped |= {first: tensors[second].T, second: tensors[first].T}
    tokens = random_tokens(1, 20)
    one, other = (RWKV7.from_state_dict(x) for x in (tensors, swapped))
    assert float((one.logits(one(tokens)[0]) - other.logits(other(tokens)[0])).abs().max()) > 0.05


@pytest.mark.parametrize("key", sorted(ModelShape.random(2, 64, 50).tensors()))
def test_forward__every_tensor_has_an_effect(key: str) -> None:
    tensors = live_state_dict(ModelShape.random(2, 64, 50))
    tokens = random_tokens(1, 12)
    changed = tensors | {key: tensors[key].roll(1, -1) + 0.1}
    one, other = (RWKV7.from_state_dict(x) for x in (tensors, changed))
    same = torch.equal(one.logits(one(tokens)[0]), other.logits(other(tokens)[0]))
    assert same == (key in {f"blocks.0.att.v{i}" for i in range(3)})


def test_forward__predicts_real_text(shared_data: Path) -> None:
    tiny = model.load(shared_data / "rwkv7" / "tiny-rwkv7-834k.safetensors")
    text = (shared_data / "text" / "wikitext2_raw_test.txt").read_bytes()[:4096]
    tokens = torch.tensor(list(text)).view(8, 512)
    hidden, _ = tiny(tokens[:, :-1])
    loss = F.cross_entropy(tiny.logits(hidden).flatten(0, 1), tokens[:, 1:].flatten())
    assert tiny.shape.n_layer == 12
    assert float(loss) < 3.8  # the official code gives the same; a uniform guess has 5.55


# ---- state and padding


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("split", [1, 7, 39])
def test_forward__prompt_then_answer_is_one_pass(split: int, seed: FutureSeedSettings | None) -> None:
    net, tokens = live_model(), random_tokens(2, 40)
    hidden, state = net(tokens[:, :split], future_seed=seed)
    answer, last = net(tokens[:, split:], state)
    if seed is None:
        whole, end = net(tokens)
        assert_close(torch.cat([hidden, answer], dim=1), whole)
        assert_states_close(last, end)
    steps = []
    for t in range(split, 40):
        step, state = net(tokens[:, t : t + 1], state)
        steps.append(step)
    assert_close(answer, torch.cat(steps, dim=1))
    assert_states_close(last, state)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("started", [False, True])
@settings(max_examples=10)
@given(lengths=st.lists(st.integers(0, 21), min_size=1, max_size=4))
def test_forward__padding_changes_nothing(
    seed: FutureSeedSettings | None, started: bool, lengths: list[int]
) -> None:
    net, T, B = live_model(), 21, len(lengths)
    tokens = random_tokens(B, T)
    start = net(random_tokens(B, 5, seed=2))[1] if started else None
    hidden, state = net(tokens, start, seed, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        before = None if start is None else rows(start, row)
        alone, after = net(tokens[row : row + 1, :length], before, seed)
        assert_close(hidden[row : row + 1, :length], alone)
        assert_states_close(rows(state, row), after)


def test_forward__what_stands_in_padding_changes_nothing() -> None:
    net, lengths = live_model(), torch.tensor([3, 9])
    tokens = random_tokens(2, 12)
    other = tokens.clone()
    other[0, 3:], other[1, 9:] = 1, 2
    for one, two in zip(net(tokens, lengths=lengths)[1], net(other, lengths=lengths)[1], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


def test_forward__no_tokens() -> None:
    net = live_model()
    _, state = net(random_tokens(2, 5))
    hidden, same = net(random_tokens(2, 0), state, FutureSeedSettings())
    assert hidden.shape == (2, 0, 64)
    assert same is state
    hidden, fresh = net(random_tokens(2, 0))
    assert not any(x.any() for layer in fresh for x in layer)
    assert net.logits(hidden).shape == (2, 0, 50)


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        ((2, 5), [5, 6], r"lengths are \[5, 6\]: expected 0 to 5"),
        ((2, 5), [-1, 5], r"lengths are \[-1, 5\]: expected 0 to 5"),
        ((2, 5), [5], r"lengths have shape \(1,\): expected \(2,\)"),
        ((5,), [5], r"tokens have shape \(5,\): expected \(B, T\)"),
    ],
)
def test_forward__lengths_that_do_not_fit(tokens: tuple[int, ...], lengths: list[int], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        live_model()(torch.zeros(tokens, dtype=torch.int64), lengths=torch.tensor(lengths))


# ---- prompts and answers together


def one_after_the_other(
    net: RWKV7, prompts: Tensor, answers: Tensor, seed: FutureSeedSettings | None, lengths: list[int] | None
) -> Tensor:
    """What `teacher_forced` returns, by a pass over the prompts and one over the answers."""
    real = torch.tensor([prompts.shape[1]] * len(prompts) if lengths is None else lengths)
    hidden, state = net(prompts, None, seed, real)
    last = hidden[torch.arange(len(prompts)), real - 1]
    return torch.cat([last.unsqueeze(1), net(answers, state)[0]], dim=1)


@pytest.mark.parametrize("seed", SEEDS)
@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 21), min_size=1, max_size=4), answer=st.integers(0, 3))
def test_teacher_forced__is_a_pass_over_prompts_and_one_over_answers(
    seed: FutureSeedSettings | None, lengths: list[int], answer: int
) -> None:
    net, B = live_model(), len(lengths)
    prompts, answers = random_tokens(B, max(lengths)), random_tokens(B, answer, seed=2)
    found = net.teacher_forced(prompts, answers, seed, torch.tensor(lengths))
    assert_close(found, one_after_the_other(net, prompts, answers, seed, lengths))


@pytest.mark.parametrize("lengths", [None, [6, 1], [1, 4]])
@pytest.mark.parametrize("tokens", [6, 1])
def test_teacher_forced__gradients_are_those_of_two_passes(tokens: int, lengths: list[int] | None) -> None:
    net = live_model(layers=2, dim=32, head_size=16, dtype=torch.float64)
    lengths = lengths and [min(length, tokens) for length in lengths]
    prompts, answers = random_tokens(2, tokens), random_tokens(2, 3, seed=2)
    seed = FutureSeedSettings(detach=False)
    given = None if lengths is None else torch.tensor(lengths)
    trained = [p for p in net.parameters() if p.requires_grad]
    expected = one_after_the_other(net, prompts, answers, seed, lengths)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_expected = torch.autograd.grad(expected, trained, weights, materialize_grads=True, allow_unused=True)
    bits = []
    for recompute in (False, True):
        found = net.teacher_forced(prompts, answers, seed, given, recompute=recompute)
        of_found = torch.autograd.grad(found, trained, weights, materialize_grads=True, allow_unused=True)
        for x, y in zip((found, *of_found), (expected, *of_expected), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)
        bits.append([found, *of_found])
    assert all(map(torch.equal, *bits))


def test_teacher_forced__what_stands_in_padding_changes_nothing() -> None:
    net, prompts, answers = live_model(), random_tokens(2, 9), random_tokens(2, 4, seed=2)
    found = net.teacher_forced(prompts, answers, FutureSeedSettings(), torch.tensor([3, 9]))
    prompts[0, 3:], answers[1, 2:] = 1, 1
    again = net.teacher_forced(prompts, answers, FutureSeedSettings(), torch.tensor([3, 9]))
    assert torch.equal(found[0], again[0])
    assert torch.equal(found[1, :3], again[1, :3])


@pytest.mark.parametrize("lengths", [None, [40, 40], [40, 39]])
def test_teacher_forced__keeps_nothing_of_a_layer_but_its_state(lengths: list[int] | None) -> None:
    net, prompts, answers = live_model(layers=4), random_tokens(2, 40), random_tokens(2, 4, seed=2)
    alive: list[weakref.ref[torch.UntypedStorage]] = []

    def of_norm(_: nn.Module, __: Any, output: Tensor) -> None:
        alive.append(weakref.ref(output.untyped_storage()))

    for block in net.blocks:
        for norm in (block.ln1, block.ln2):
            norm.register_forward_hook(of_norm)
    given = None if lengths is None else torch.tensor(lengths)
    net.blocks[3].ln1.register_forward_pre_hook(lambda *_: seen.extend(ref() is not None for ref in alive))
    seen: list[bool] = []
    net.teacher_forced(prompts, answers, FutureSeedSettings(), given)
    assert seen == [False] * 6


@pytest.mark.parametrize("lengths", [None, [7, 7], [7, 3]])
def test_forward__state_is_not_a_view_of_activations(lengths: list[int] | None) -> None:
    given = None if lengths is None else torch.tensor(lengths)
    _, state = live_model()(random_tokens(2, 7), lengths=given)
    for layer in state:
        for x in (layer.att_shift, layer.ffn_shift):
            assert x.untyped_storage().nbytes() == x.numel() * x.element_size()


@pytest.mark.parametrize("lengths", [[4, 3], [4, 0]])
def test_forward__shifts_have_the_dtype_of_the_model(lengths: list[int]) -> None:
    start = live_model()(random_tokens(2, 3))[1]
    _, state = live_model(dtype=torch.bfloat16)(random_tokens(2, 4), start, lengths=torch.tensor(lengths))
    assert {x.dtype for layer in state for x in (layer.att_shift, layer.ffn_shift)} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("prompts", "answers", "lengths", "message"),
    [
        ((2, 5), (3, 2), None, r"and answers \(3, 2\), lengths are None: expected"),
        ((2, 5), (2,), None, r"and answers \(2,\), lengths are None: expected"),
        ((2, 0), (2, 2), None, "at least one token in each prompt"),
        ((2, 5), (2, 2), [5, 0], "at least one token in each prompt"),
        ((2, 5), (2, 2), [5, 6], r"lengths are \[5, 6\]: expected 0 to 5"),
    ],
)
def test_teacher_forced__what_does_not_fit(
    prompts: tuple[int, ...], answers: tuple[int, ...], lengths: list[int] | None, message: str
) -> None:
    given = None if lengths is None else torch.tensor(lengths)
    with pytest.raises(ShapeError, match=message):
        live_model().teacher_forced(
            torch.zeros(prompts, dtype=torch.int64), torch.zeros(answers, dtype=torch.int64), lengths=given
        )


# ---- numerics


def test_forward__float64_agrees_with_float32() -> None:
    tokens = random_tokens(2, 50)
    hidden, state = live_model()(tokens)
    exact, exact_state = live_model(dtype=torch.float64)(tokens)
    assert_close(state[2].wkv.double(), exact_state[2].wkv)
    assert exact.dtype == exact_state[0].wkv.dtype == torch.float64
    assert_close(hidden.double(), exact)


def test_forward__train_and_eval_are_the_same_bits() -> None:
    net, tokens = live_model(), random_tokens(2, 30)
    one, two = net.train()(tokens)[0], net.eval()(tokens)[0]
    assert torch.equal(one, two)


@pytest.mark.parametrize("autocast", [True, False])
def test_forward__bfloat16_keeps_the_memory_in_float32(autocast: bool) -> None:
    net = live_model(dtype=torch.float32 if autocast else torch.bfloat16)
    tokens = random_tokens(2, 30)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        hidden, state = net(tokens, future_seed=FutureSeedSettings(), lengths=torch.tensor([30, 11]))
        hidden, state = net(tokens, state)
    exact, exact_state = live_model()(
        tokens, future_seed=FutureSeedSettings(), lengths=torch.tensor([30, 11])
    )
    exact, exact_state = live_model()(tokens, exact_state)
    assert all(layer.wkv.dtype == torch.float32 for layer in state)
    assert_close(hidden.float(), exact, tolerance=0.4)
    assert float((hidden.float() - exact).abs().mean()) < 0.04


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_forward__decay_is_at_least_float32(
    dtype: torch.dtype, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[torch.dtype] = []

    def noting(*tensors: Tensor, steps: Any) -> tuple[Tensor, Tensor]:
        found.append(tensors[1].dtype)
        return model.wkv7(*tensors, steps=steps)

    monkeypatch.setattr(time_mix, "wkv7", noting)
    live_model(dtype=dtype)(random_tokens(1, 5))
    assert set(found) == {expected}


def test_forward__gradients_agree_with_finite_differences() -> None:
    net = live_model(layers=2, dim=16, vocab=9, head_size=8, dtype=torch.float64)
    tokens, lengths = random_tokens(2, 6, vocab=9), torch.tensor([6, 4])
    weights = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss() -> Tensor:
        hidden, state = net(tokens, future_seed=FutureSeedSettings(detach=False), lengths=lengths)
        answer, _ = net(tokens, state)
        return (net.logits(hidden)[1, :4] * weights[1, :4]).sum() + (net.logits(answer) * weights).sum()

    loss().backward()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, name
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            values = []
            for step in (1e-6, -1e-6):
                parameter += step * direction
                values.append(float(loss()))
                parameter -= step * direction
        slope = (values[0] - values[1]) / 2e-6
        assert slope == pytest.approx(float((parameter.grad * direction).sum()), rel=1e-4, abs=1e-6), name


def test_forward__gradients_are_the_same_bits_every_time() -> None:
    net, tokens, lengths = live_model(), random_tokens(4, 50), torch.tensor([50, 0, 33, 7])
    torch.set_num_threads(2)
    runs = []
    for _ in range(2):
        net.zero_grad()
        hidden, state = net(tokens, future_seed=FutureSeedSettings(detach=False), lengths=lengths)
        net.logits(net(tokens, state)[0]).square().sum().backward()
        runs.append([hidden, *(x.grad.clone() for x in net.parameters() if x.grad is not None)])
    torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


# ---- loading


def test_from_state_dict__round_trips_official_names() -> None:
    tensors = live_state_dict(ModelShape.random(2, 64, 50))
    net = RWKV7.from_state_dict(tensors)
    assert net.state_dict().keys() == tensors.keys()
    assert all(torch.equal(net.state_dict()[key], tensors[key]) for key in tensors)


def test_from_state_dict__copies() -> None:
    tensors = live_state_dict(ModelShape.random(1, 64, 50))
    net = RWKV7.from_state_dict(tensors)
    before = tensors["emb.weight"].clone()
    net.emb.weight.zero_()
    assert torch.equal(tensors["emb.weight"], before)


def test_from_state_dict__only_used_parameters_are_trained() -> None:
    net = RWKV7.from_state_dict(live_state_dict(ModelShape.random(2, 64, 50)))
    fixed = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert fixed == {f"blocks.0.att.v{i}" for i in range(3)}


def test_from_state_dict__tensors_of_another_model() -> None:
    with pytest.raises(CheckpointError, match="blocks"):
        RWKV7.from_state_dict({"emb.weight": torch.zeros(4, 4)})


def test_load__any_file_becomes_the_wanted_dtype(tmp_path: Path) -> None:
    tensors = {key: x.bfloat16() for key, x in live_state_dict(ModelShape.random(2, 64, 50)).items()}
    torch.save(tensors, tmp_path / "model.pth")
    net = model.load(tmp_path / "model.pth")
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert torch.equal(net.head.weight, tensors["head.weight"].float())
    assert model.load(tmp_path / "model.pth", dtype=torch.bfloat16).head.weight.dtype == torch.bfloat16
