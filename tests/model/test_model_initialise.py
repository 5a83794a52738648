import math

import pytest
import torch

from model.initialise import random_state_dict
from model.rwkv7 import RWKV7
from model.shapes import ModelShape

SHAPE = ModelShape.random(layers=4, dim=64, vocab=200, head_size=32)


def test_random_state_dict__has_the_official_tensors() -> None:
    tensors = random_state_dict(SHAPE, seed=0)
    assert {name: tuple(x.shape) for name, x in tensors.items()} == SHAPE.tensors()
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in tensors.values())


def test_random_state_dict__without_unused_tensors_of_block_0() -> None:
    shape = ModelShape(**(vars(SHAPE) | {"block0_value_residual": False}))
    assert random_state_dict(shape, seed=0).keys() == shape.tensors().keys()


def test_random_state_dict__is_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    one = random_state_dict(SHAPE, seed=5)
    torch.manual_seed(2)
    same, other = random_state_dict(SHAPE, seed=5), random_state_dict(SHAPE, seed=6)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["emb.weight"], other["emb.weight"])


def test_random_state_dict__leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    random_state_dict(SHAPE, seed=0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [  # values at channels 0 and 63 of layer 2, computed by hand from the official rules
        ("x_r", 1.0, 1 - (63 / 64) ** 0.1),
        ("x_w", 1.0, 1 - (63 / 64) ** 0.45),
        ("x_k", 1.0, 1 - (63 / 64) ** 0.35),
        ("w0", -6 + 0.5 - 2.5, 0 + 0.5 + 2.5),
        ("a0", -0.19 - 0.3 - 0.2, -0.19 + 0.3 + 0.2),
        ("v0", 0.73 + 0.2, 0.73 - 0.2),
        ("k_k", 0.71 + 0.05, 0.71 - 0.05),
        ("k_a", 1.02, 1.02),
        ("r_k", -0.04, -0.04),
        ("ln_x.weight", 0.75**0.7, 0.75**0.7),
    ],
)
def test_random_state_dict__vectors_of_the_attention(name: str, first: float, last: float) -> None:
    x = random_state_dict(SHAPE, seed=0)[f"blocks.2.att.{name}"].flatten()
    assert float(x[0]) == pytest.approx(first, abs=1e-6)
    assert float(x[-1]) == pytest.approx(last, abs=1e-6)


def test_random_state_dict__decay_within_the_layers() -> None:
    tensors = random_state_dict(SHAPE, seed=0)
    n, depth, zigzag = 40, 2 / 3, ((40 % 32) - 15.5) / 15.5
    expected = -6 + 6 * (n / 63) ** (1 + depth**0.3) + 0.5 - 2.5 * zigzag**2
    assert float(tensors["blocks.2.att.w0"][0, 0, n]) == pytest.approx(expected, abs=1e-5)


def test_random_state_dict__matrices() -> None:
    tensors = random_state_dict(SHAPE, seed=0)
    identity = torch.eye(64)

    def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
        return torch.allclose(found, expected, atol=1e-5)

    assert float(tensors["emb.weight"].abs().max()) <= 1e-4
    head = tensors["head.weight"]
    assert close(head.T @ head, identity * 0.25 * 200 / 64)
    for name, gain in {"att.receptance": 1.0, "att.key": 0.1, "att.value": 1.0}.items():
        weight = tensors[f"blocks.1.{name}.weight"]
        assert close(weight @ weight.T, identity * gain**2), name
    for name in ("att.output.weight", "ffn.value.weight", "att.w1", "att.a1", "att.v1", "att.g1"):
        assert not tensors[f"blocks.1.{name}"].any(), name
    for name in ("w2", "a2", "v2", "g2"):
        weight = tensors[f"blocks.1.att.{name}"]
        assert close(weight @ weight.T, 0.01 * torch.eye(weight.shape[0])), name


def test_random_state_dict__low_rank_factor_wider_than_the_model() -> None:
    weight = random_state_dict(ModelShape.random(2, 16, 20, head_size=16), seed=0)["blocks.0.att.w2"]
    assert torch.allclose(weight.T @ weight, 0.01 * 2 * torch.eye(16), atol=1e-5)


def test_random_state_dict__a_new_model_predicts_the_uniform_distribution() -> None:
    model = RWKV7.from_state_dict(random_state_dict(SHAPE, seed=0))
    with torch.no_grad():
        hidden, _ = model(torch.arange(200).view(2, 100))
        loss = torch.nn.functional.cross_entropy(model.logits(hidden).flatten(0, 1), torch.arange(200))
    assert float(loss) == pytest.approx(math.log(200), abs=0.3)


def test_random_state_dict__one_layer() -> None:
    assert all(x.isfinite().all() for x in random_state_dict(ModelShape.random(1, 64, 20), seed=0).values())


def test_random_state_dict__does_not_depend_on_the_threads() -> None:
    """A training process changes their number from job to job."""
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(random_state_dict(ModelShape.random(4, 64, 256), seed=0))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
