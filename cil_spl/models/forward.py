"""The forward pass in time steps, with explicit state, and with values observed on another machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from cil_spl.models import neurons
from cil_spl.models.neurons import Observation

State = dict[str, Tensor]


def forward(
    net: nn.Sequential,
    frames: Tensor,
    state: State | None = None,
    observed: Mapping[str, Observation] | None = None,
    record: Collection[str] = (),
    straight_through: Collection[str] = (),
) -> tuple[Tensor, State, dict[str, Tensor]]:
    """Run a chain of layers through all time steps of a batch.

    Args:
        net: layers by name; convolutions, pools and rectifiers take all steps at once.
        frames: event counts.
        state: ``v_mem`` of each spiking layer before the first step; zero where absent.
        observed: for a spiking layer's name, what another machine saw it do (see :func:`neurons.step`).
        record: names of layers whose output is wanted.
        straight_through: names of spiking layers whose gradient passes unchanged.

    Returns:
        the output, the states after the last step, and the records by name.

    Shape:
        frames: (T, B, C, H, W). Output: (T, B, K). Records: (T, B, ...).
    """
    steps, batch = frames.shape[:2]
    state = dict(state or {})
    observed = observed or {}
    records: dict[str, Tensor] = {}
    x = frames
    for name, module in net.named_children():
        if neurons.is_spiking(module):
            x, state[name] = neurons.step(
                module, x, state.get(name), observed.get(name), straight_through=name in straight_through
            )
        else:
            x = module(x.flatten(0, 1)).unflatten(0, (steps, batch))  # T B ... -> (T B) ... -> T B ...
        if name in record:
            records[name] = x
    return x, state, records
