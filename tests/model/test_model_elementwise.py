import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.elementwise import mix, squared_relu, unit_vectors
from model.parts import Parts


def normal(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_()


CPU = torch.device("cpu")


def weights_of(count: int) -> list[Tensor]:
    return [normal(1, 1, 4, seed=2 + i) for i in range(count)]


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("count", [1, 6])
def test_mix__interpolates_between_a_token_and_the_one_before(count: int, tokens: int) -> None:
    x, before, weights = normal(2, tokens, 4), normal(2, 4, seed=1), weights_of(count)
    shifted = torch.cat([before.unsqueeze(1), x[:, :-1]], dim=1)
    parts = Parts(2, tokens, None, CPU)
    for found, weight in zip(mix(x, before, parts, *weights), weights, strict=True):
        torch.testing.assert_close(found, torch.lerp(x, shifted, weight))
    assert torch.autograd.gradcheck(lambda x, before, *w: mix(x, before, parts, *w), (x, before, *weights))


@pytest.mark.parametrize("lengths", [None, [3, 1, 2], [3, 0, 2]])
def test_mix__of_two_parts_goes_on_from_the_last_real_token(lengths: list[int] | None) -> None:
    before, weights = normal(3, 4, seed=1), weights_of(2)
    first, second = normal(3, 3, 4), normal(3, 2, 4, seed=3)
    x = torch.cat([first.flatten(0, 1), second.flatten(0, 1)]).unsqueeze(0)
    parts = Parts(3, 3, None if lengths is None else torch.tensor(lengths), CPU, following=2)
    ends = [
        before[row] if length == 0 else first[row, length - 1]
        for row, length in enumerate(lengths or [3, 3, 3])
    ]
    shifted = [
        torch.cat([start.unsqueeze(1), part[:, :-1]], dim=1).flatten(0, 1)
        for start, part in ((before, first), (torch.stack(ends), second))
    ]
    for found, weight in zip(mix(x, before, parts, *weights), weights, strict=True):
        torch.testing.assert_close(found, torch.lerp(x, torch.cat(shifted).unsqueeze(0), weight))
    leaf = x.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, before, *w: mix(x, before, parts, *w), (leaf, before, *weights))


def test_unit_vectors__have_length_one() -> None:
    x = normal(2, 3, 2, 4)
    torch.testing.assert_close(unit_vectors(x), F.normalize(x, dim=-1))
    assert torch.autograd.gradcheck(unit_vectors, (x,))


def test_unit_vectors__of_zero_is_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(1, 4, requires_grad=True)
    units = unit_vectors(x)
    (gradient,) = torch.autograd.grad(units.sum(), x)
    assert not units.any()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_unit_vectors__of_zero_is_zero_in_any_dtype(dtype: torch.dtype) -> None:
    assert not unit_vectors(torch.zeros(2, 4, dtype=dtype)).any()


def test_squared_relu__and_its_gradient() -> None:
    x = normal(3, 5)
    torch.testing.assert_close(squared_relu(x), torch.relu(x).square())
    assert torch.autograd.gradcheck(squared_relu, (x,))
