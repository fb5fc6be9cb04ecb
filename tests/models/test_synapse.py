"""Weights whose gradient is taken elsewhere: value, weights' gradient, input's gradient, each apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cil_spl.models.synapse import CUT, synapse

MODULES = [
    lambda: nn.Linear(6, 4),
    lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
    lambda: nn.Conv2d(3, 4, (3, 2), padding=(0, 1)),
]
SHAPES = [(5, 6), (5, 3, 7, 6), (5, 3, 7, 6)]


@pytest.fixture(params=range(3))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(request.param)
    module = MODULES[request.param]().double()
    x = torch.randn(SHAPES[request.param], dtype=torch.float64, requires_grad=True)
    return module, x, torch.randn_like(module(x)).detach()


def gradients(module: nn.Module, x: torch.Tensor, out: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor | None]:
    wanted = [x, *module.parameters()]
    return list(torch.autograd.grad(out, wanted, g, allow_unused=True))


def test_alone_it_is_the_module(case: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    module, x, g = case
    assert torch.equal(synapse(module, x), module(x))
    for a, b in zip(gradients(module, x, synapse(module, x), g), gradients(module, x, module(x), g), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_the_weights_learn_from_pre_and_the_value_is_of_x(case: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    module, x, g = case
    pre = torch.randn_like(x)
    out = synapse(module, x, pre=pre)
    assert torch.equal(out, module(x))
    by_x, by_weight, *_ = gradients(module, x, out, g)
    torch.testing.assert_close(by_x, gradients(module, x, module(x), g)[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(by_weight, torch.autograd.grad(module(pre), module.weight, g)[0], rtol=0, atol=1e-12)  # type: ignore[arg-type]


def test_the_input_learns_through_back(case: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    module, x, g = case
    back = torch.randn_like(module.weight)  # type: ignore[arg-type]
    by_x, by_weight, *_ = gradients(module, x, synapse(module, x, back=back), g)
    expected_weight = torch.autograd.grad(module(x), module.weight, g)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(by_weight, expected_weight, rtol=0, atol=1e-12)
    with torch.no_grad():
        module.weight.copy_(back)  # type: ignore[operator]
    torch.testing.assert_close(by_x, gradients(module, x, module(x), g)[0], rtol=0, atol=1e-12)


def test_a_cut_leaves_the_input_without_a_gradient(case: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    module, x, g = case
    by_x, by_weight, *_ = gradients(module, x, synapse(module, x, back=CUT), g)
    assert by_x is None
    assert by_weight is not None
