"""Surrogate derivatives of a spike, psi(u), with u the membrane before the spike test: of sinabs, and two more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sinabs.activation as sina
import torch
from torch import Tensor

Surrogate = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Triangle:
    """psi(u) = max(0, 1 - |u - theta| / width) / width, the default of SLTT (Meng et al. 2023)."""

    grad_width: float = 1.0

    def __call__(self, v_mem: Tensor, spike_threshold: Tensor) -> Tensor:
        return torch.relu(1 - (v_mem - spike_threshold).abs() / self.grad_width) / self.grad_width


@dataclass
class Sigmoid:
    """Derivative of sigmoid(slope (u - theta)), the default of OTTT (Xiao et al. 2022), slope 4."""

    slope: float = 4.0

    def __call__(self, v_mem: Tensor, spike_threshold: Tensor) -> Tensor:
        s = torch.sigmoid(self.slope * (v_mem - spike_threshold))
        return self.slope * s * (1 - s)


SURROGATES: dict[str, Callable[..., Surrogate]] = {
    "periodic_exponential": sina.PeriodicExponential,
    "single_exponential": sina.SingleExponential,
    "heaviside": sina.Heaviside,
    "gaussian": sina.Gaussian,
    "multi_gaussian": sina.MultiGaussian,
    "triangle": Triangle,
    "sigmoid": Sigmoid,
}
