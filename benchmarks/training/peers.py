"""Other libraries that train spiking networks: each with the same layers, in the fastest of its modes on a CPU.

A function makes, of a ``sides.Problem``, a module from frames (T, B, C, H, W) to counts (B, K), and what resets it
before each batch. Frames and weights have their channels last in memory, which is faster in every one of them. What
differs from our neurons stands with each; none of it makes a peer slower than the same neurons would be.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, Callable[[], None]]
Make = Callable[[Any], Made]
MODULES = {"SpikingJelly": "spikingjelly", "snnTorch": "snntorch", "sinabs": "sinabs", "norse": "norse"}


def spikingjelly(problem: Any) -> Made:
    """Multi-step mode: a layer takes all steps at once. ``IFNode`` resets by subtraction, its surrogate is ATan.

    Single spikes, no lower bound. On a CPU its registered operators run in torch.
    """
    neuron, layer, functional, surrogate = (
        import_module(f"spikingjelly.activation_based.{name}")
        for name in ("neuron", "layer", "functional", "surrogate")
    )

    def own(module: nn.Module) -> nn.Module:
        made: Any = module
        if isinstance(module, nn.Conv2d):
            made = layer.Conv2d(
                module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, bias=False
            )  # fmt: skip
            made.weight = module.weight
        elif isinstance(module, nn.Linear):
            made = layer.Linear(module.in_features, module.out_features, bias=False)
            made.weight = module.weight
        elif isinstance(module, nn.AvgPool2d):
            made = layer.AvgPool2d(module.kernel_size, module.stride)
        elif isinstance(module, nn.Flatten):
            made = layer.Flatten()
        return made

    def fresh() -> nn.Module:
        return neuron.IFNode(v_reset=None, surrogate_function=surrogate.ATan())

    net = _Summed(nn.Sequential(*(own(module) for module in problem.layers(fresh))))
    functional.set_step_mode(net, "m")
    return _last(net), lambda: functional.reset_net(net)


def snntorch(problem: Any) -> Made:
    """A loop over the steps, as its tutorials have it: ``Leaky`` with beta = 1, reset by subtraction, ATan.

    Single spikes one step late, no lower bound. Its parallel layers have no reset, so they are other neurons.
    """
    leaky = import_module("snntorch").Leaky
    return _last(_Stepped(problem.layers(lambda: leaky(beta=1.0, reset_mechanism="subtract")), leaky)), lambda: None


def sinabs(problem: Any) -> Made:
    """``IAFSqueeze``, a recording's steps one after another in the batch axis; options are those of our neurons."""
    sina, sl = import_module("sinabs.activation"), import_module("sinabs.layers")
    batch = problem.batch.frames.shape[1]

    def fresh() -> nn.Module:
        return sl.IAFSqueeze(
            batch_size=batch, min_v_mem=-8.0, spike_fn=sina.MultiSpike, reset_fn=sina.MembraneSubtract(),
            surrogate_grad_fn=sina.PeriodicExponential(),
        )  # fmt: skip

    net = _Squeezed(problem.layers(fresh), batch)
    return _last(net), lambda: import_module("sinabs").reset_states(net)


def norse(problem: Any) -> Made:
    """A loop over the steps of a ``SequentialState`` with ``IAFCell``, states given at the start; SuperSpike.

    Single spikes, reset to zero (it has no other), no lower bound.
    """
    torch_, iaf = import_module("norse.torch"), import_module("norse.torch.functional.iaf")

    def fresh() -> nn.Module:
        return torch_.IAFCell(torch_.IAFParameters(v_th=torch.tensor(1.0), v_reset=torch.tensor(0.0)))

    net = _Stateful(torch_.SequentialState(*problem.layers(fresh)), iaf.IAFFeedForwardState)
    return _last(net), lambda: None


PEERS: dict[str, Make] = {"SpikingJelly": spikingjelly, "snnTorch": snntorch, "sinabs": sinabs, "norse": norse}


def installed() -> list[str]:
    """The peers at hand, by name."""
    return [name for name, module in MODULES.items() if find_spec(module) is not None]


def left_out() -> list[str]:
    """A line for each peer that is not installed."""
    here = installed()
    return [f"{name} is not installed and left out; pip install -e '.[peers]'" for name in PEERS if name not in here]


def _last(net: nn.Module) -> nn.Module:
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Summed(nn.Module):
    """A module over all steps, its output summed over them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, frames: Tensor) -> Tensor:
        return self.inner(frames).sum(0)  # T B K -> B K


class _Stepped(nn.Module):
    """Layers in a loop over steps; those of class ``spiking`` take and give their membrane."""

    def __init__(self, layers: list[nn.Module], spiking: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.is_spiking = [isinstance(layer, spiking) for layer in layers]

    def forward(self, frames: Tensor) -> Tensor:
        v_mem: dict[int, Tensor] = {}
        out = []
        for t in range(frames.shape[0]):
            x = frames[t]
            for i, layer in enumerate(self.layers):
                if self.is_spiking[i]:
                    x, v_mem[i] = layer(x, v_mem[i] if i in v_mem else torch.zeros_like(x))
                else:
                    x = layer(x)
            out.append(x)
        return torch.stack(out).sum(0)  # T B K -> B K


class _Squeezed(nn.Module):
    """Layers over (B T, ...)."""

    def __init__(self, layers: list[nn.Module], batch: int) -> None:
        super().__init__()
        self.inner, self.batch = nn.Sequential(*layers), batch

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.transpose(0, 1).flatten(0, 1)  # T B ... -> B T ... -> (B T) ...
        return self.inner(x).unflatten(0, (self.batch, frames.shape[0])).sum(1)  # (B T) K -> B T K -> B K


class _Stateful(nn.Module):
    """A norse sequence in a loop over steps."""

    def __init__(self, inner: Any, state: Any) -> None:
        super().__init__()
        self.inner, self.state = inner, state

    def forward(self, frames: Tensor) -> Tensor:
        zero = torch.zeros(())
        state = [self.state(v=zero) if held else None for held in self.inner.stateful_layers]
        out = []
        for t in range(frames.shape[0]):
            x, state = self.inner(frames[t], state)
            out.append(x)
        return torch.stack(out).sum(0)  # T B K -> B K
