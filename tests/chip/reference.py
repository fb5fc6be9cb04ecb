"""The chip in plain Python: slow, and plain enough to be seen right. Depth first, event by event."""

from __future__ import annotations

import numpy as np

from cil_spl.chip.network import ChipNetwork


class Reference:
    """States, and what happened, of one recording."""

    def __init__(self, network: ChipNetwork) -> None:
        self.network = network
        self.v = [np.zeros(layer.output_shape, int) for layer in network.layers]
        self.counts = [np.zeros(layer.output_shape, int) for layer in network.layers]
        self.synops = [0] * len(network.layers)
        self.saturations = [0] * len(network.layers)
        self.output: list[tuple[int, int]] = []

    def event(self, i: int, t: int, c: int, y: int, x: int) -> None:
        """An event (c, y, x) arrives at layer ``i``."""
        layer = self.network.layers[i]
        f_n, height, width = layer.output_shape
        _, _, ky, kx = layer.weight.shape
        fired = []
        for oy in range(height):
            for ox in range(width):
                row = y + layer.padding[0] - oy * layer.stride[0]
                column = x + layer.padding[1] - ox * layer.stride[1]
                if not (0 <= row < ky and 0 <= column < kx):
                    continue
                for f in range(f_n):
                    self.synops[i] += 1
                    v = int(self.v[i][f, oy, ox]) + int(layer.weight[f, c, row, column])
                    if v > 32767:
                        v, self.saturations[i] = 32767, self.saturations[i] + 1
                    v = max(v, layer.min_v_mem)
                    if v >= layer.threshold:
                        v = 0 if layer.reset == "zero" else v - layer.threshold
                        self.counts[i][f, oy, ox] += 1
                        fired.append((f, oy, ox))
                    self.v[i][f, oy, ox] = v
        for f, oy, ox in fired:
            if not layer.destinations:
                self.output.append((t, f))
            for to in layer.destinations:
                py, px = oy // to.pool[0], ox // to.pool[1]
                if py < height // to.pool[0] and px < width // to.pool[1]:
                    self.event(to.layer, t, f + to.feature_shift, py, px)
