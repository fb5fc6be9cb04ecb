"""How well a proxy gradient points where the chip's own loss falls.

The chip's loss has no gradient, but it can be asked what a step does. Along random directions of +1 and -1 for each
weight, with one step size c a layer (simultaneous perturbation, J. C. Spall, IEEE Transactions on Automatic Control
37(3), 1992):

    slope_i     = (L_chip(W + c d_i) - L_chip(W - c d_i)) / 2     what the chip does along direction i
    predicted_i = <g, c d_i>                                      what the proxy gradient g says it does
    cosine      = <slope, predicted> / (|slope| |predicted|)

For many directions this tends to the cosine between g and the gradient of the chip's smoothed loss, with the weights of
each layer measured in units of c. The step is a few quanta of the layer's 8 bits, since rounding hides smaller ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cil_spl.data.batches import Batch

QUANTA = 4.0  # step in quanta of a layer's 8-bit weights


class Meter:
    """Measures the gradient of ``loss`` on one fixed batch.

    Args:
        net: its parameters' gradients are measured; they and the weights are left as they were.
        loss: the chip's loss of a batch at the present weights, with the proxy gradient attached.
        batch: the recordings to measure on.
        directions: how many; the result is uncertain by about one over their square root.
        seed: of the directions, the same at every call.
    """

    def __init__(
        self, net: nn.Module, loss: Callable[[Batch], Tensor], batch: Batch, directions: int, seed: int = 0
    ) -> None:
        self.params = [p for p in net.parameters() if p.requires_grad]
        self.loss, self.batch, self.directions, self.seed = loss, batch, directions, seed

    def __call__(self) -> dict[str, float]:
        """The cosine, as ``gradient_cosine``; 0 where a loss or a gradient does not move at all."""
        gradient = torch.autograd.grad(self.loss(self.batch), self.params)
        random = torch.Generator().manual_seed(self.seed)
        slopes, predicted = [], []
        start = [p.detach().clone() for p in self.params]
        size = [QUANTA * float(w.abs().max()) / 127 for w in start]
        with torch.no_grad():
            for _ in range(self.directions):
                step = [
                    c * (2.0 * torch.randint(0, 2, w.shape, generator=random) - 1).to(w)
                    for c, w in zip(size, start, strict=True)
                ]
                losses = []
                for sign in (1, -1):
                    for p, w, d in zip(self.params, start, step, strict=True):
                        p.copy_(w + sign * d)
                    losses.append(float(self.loss(self.batch)))
                slopes.append((losses[0] - losses[1]) / 2)
                predicted.append(float(sum((g * d).sum() for g, d in zip(gradient, step, strict=True))))
            for p, w in zip(self.params, start, strict=True):
                p.copy_(w)
        a, b = torch.tensor(slopes, dtype=torch.float64), torch.tensor(predicted, dtype=torch.float64)
        norm = float(a.norm() * b.norm())
        return {"gradient_cosine": float(a @ b) / norm if norm else 0.0}
