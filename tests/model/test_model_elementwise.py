import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.elementwise import mix, squared_relu, unit_vectors


def normal(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("count", [1, 6])
def test_mix__is_linear_interpolation(count: int) -> None:
    x, shifted, weights = (
        normal(2, 3, 4),
        normal(2, 3, 4, seed=1),
        [normal(1, 1, 4, seed=2 + i) for i in range(count)],
    )
    for found, weight in zip(mix(x, shifted, *weights), weights, strict=True):
        torch.testing.assert_close(found, torch.lerp(x, shifted, weight))
    assert torch.autograd.gradcheck(mix, (x, shifted, *weights))


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
