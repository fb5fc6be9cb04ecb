"""The gradient meter on losses whose gradient is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cil_spl.training.gradient_cosine import Meter

BATCH: Any = None


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=False).double()


def slope(net: nn.Linear) -> Tensor:
    return (net.weight * torch.arange(24.0, dtype=torch.float64).view(4, 6)).sum()


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 1.0), (3.0, 1.0), (-1.0, -1.0)])
def test_a_proxy_along_the_true_gradient_has_cosine_one(factor: float, expected: float) -> None:
    """The value is the chip's, the gradient a multiple of the true one: only the direction counts."""
    net = layer()

    def loss(_: Any) -> Tensor:
        value = slope(net)
        return factor * value + (1 - factor) * value.detach()

    assert Meter(net, loss, BATCH, 5)()["gradient_cosine"] == pytest.approx(expected, abs=1e-12)


def test_it_tends_to_the_cosine_of_the_two_gradients() -> None:
    """Both in units of the step of their layer, which is one here."""
    net = layer()
    other = torch.randn(4, 6, generator=torch.Generator().manual_seed(3)).double() + 8

    def loss(_: Any) -> Tensor:
        proxy = (net.weight * other).sum()
        return slope(net).detach() + proxy - proxy.detach()

    true = torch.nn.functional.cosine_similarity(torch.arange(24.0).double(), other.flatten(), dim=0)
    assert Meter(net, loss, BATCH, 2000)()["gradient_cosine"] == pytest.approx(float(true), abs=0.05)
    assert 0.3 < float(true) < 0.95


def test_it_leaves_weights_and_gradients_and_repeats_itself() -> None:
    net = layer()
    before = net.weight.detach().clone()
    meter = Meter(net, lambda _: (net.weight**4).sum(), BATCH, 3, seed=5)
    first = meter()
    assert torch.equal(net.weight, before)
    assert net.weight.grad is None
    torch.rand(7)
    assert meter() == first
    assert Meter(net, lambda _: (net.weight**4).sum(), BATCH, 3, seed=6)() != first


def test_a_loss_that_does_not_move_has_no_direction() -> None:
    net = layer()
    assert Meter(net, lambda _: 0 * net.weight.sum(), BATCH, 2)() == {"gradient_cosine": 0.0}
