"""Modules of the kinds of layers that neither torch nor sinabs has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def over_steps(module: nn.Module, *inputs: Tensor) -> Tensor:
    """All time steps at once through a module that knows none. Shapes: (T, B, ...) → (T, B, ...)."""
    steps, batch = inputs[0].shape[:2]
    return module(*(x.flatten(0, 1) for x in inputs)).unflatten(0, (steps, batch))  # T B ... -> (T B) ... -> T B ...


def per_feature(values: Tensor, x: Tensor) -> Tensor:
    """Values of each feature, to be used with a batch. Shapes: (C,) and (N, C, ...) → (1, C, 1, ...)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


class ScaleNorm(nn.Module):
    """Batch normalisation without a shift: x g / sqrt(E[x^2] + eps), for each feature.

    Without a shift it is a factor on the weights in front, so a chip without biases can hold it. E[x^2] is the batch's
    in training, its running mean otherwise.

    Shape:
        (N, C, ...) → the same.
    """

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.running_square: Tensor
        self.register_buffer("running_square", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        square = self.running_square
        if self.training:
            square = x.square().mean(dim=[0, *range(2, x.dim())])
            with torch.no_grad():
                self.running_square.lerp_(square.detach(), self.momentum)
        return x * per_feature(self.weight / (square + self.eps).sqrt(), x)


class Standardised(nn.Module):
    """Weights of mean 0 and variance 1 / fan-in for each output, times a gain that is trained and a factor that is not.

    What = gain (W - mean W) / sqrt(var W fan_in + 1e-4): scaled weight standardisation (A. Brock, S. De, S. L. Smith,
    ICLR 2021), which needs no statistics of a batch.

    Shape:
        (F, ...) → the same.
    """

    def __init__(self, features: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = float(scale)
        self.gain = nn.Parameter(torch.ones(features))

    def forward(self, weight: Tensor) -> Tensor:
        flat = weight.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        return (centred * (self.scale * self.gain / self.spread(weight))[:, None]).view_as(weight)

    def spread(self, weight: Tensor) -> Tensor:
        """What the weights of each output are divided by. Shape: (F, ...) → (F,)."""
        flat = weight.flatten(1)
        return (flat.var(1) * flat.shape[1] + 1e-4).sqrt()


def standardise(module: Any, scale: float) -> None:
    """Let a layer compute with standardised weights."""
    parametrize.register_parametrization(module, "weight", Standardised(len(module.weight), scale))


def standardised(module: Any) -> Standardised | None:
    """What standardises a layer's weights; None where nothing does."""
    made_of = module.parametrizations.weight if parametrize.is_parametrized(module, "weight") else ()
    return next((one for one in made_of if isinstance(one, Standardised)), None)


class Bias(nn.Module):
    """A current of each feature's own, at every time step. Shape: (N, C, ...) → the same."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return x + per_feature(self.bias, x)


class Add(nn.Module):
    """The sum of its inputs."""

    def __init__(self, features: int) -> None:
        super().__init__()

    def forward(self, *inputs: Tensor) -> Tensor:
        total = inputs[0]
        for x in inputs[1:]:
            total = total + x
        return total


class Delay(nn.Module):
    """What its input was one time step before; zero at the first. The walker keeps the content."""

    def __init__(self, features: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("a delay has no meaning without time steps; use cil_spl.models.forward.forward")


class WeighTime(nn.Module):
    """Steps weighted so that the sum over time is the leaky sum at the end: sum over t of decay^(T - t) x[t].

    Written with the leaky sum r of the steps so far, so that it needs not know T:

        r[t] = decay r[t-1] + x[t],    y[t] = r[t] - r[t-1]
    """

    def __init__(self, features: int, decay: float) -> None:
        super().__init__()
        self.decay = float(decay)

    def forward(self, x: Tensor, r: Tensor | None = None) -> tuple[Tensor, Any]:
        """Shapes: x (T, B, ...), r (B, ...) → y (T, B, ...), r (B, ...)."""
        r = torch.zeros_like(x[0]) if r is None else r
        steps = []
        for now in x:
            before, r = r, self.decay * r + now
            steps.append(r - before)
        return torch.stack(steps), r
