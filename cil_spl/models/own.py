"""A user's own network in the place of a plan: a torch module, or a sinabs network.

An ``nn.Sequential`` of layers that a plan knows becomes one layer by layer, so it is quantised, placed and deployed as
a built-in model is. Whatever else is in it stays one layer of its own that no chip holds:

    ``module``     knows no time: all steps in the batch axis, (T B, ...)
    ``stateful``   holds sinabs layers; or says ``over_time = True``, takes (T, B, ...) and starts anew with each call
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sinabs.layers as sl
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from cil_spl.base.errors import RequestError
from cil_spl.models import neurons
from cil_spl.models.fold import BATCH_NORMS
from cil_spl.models.kinds import Shape, pair
from cil_spl.models.layers import Add, Bias, ScaleNorm
from cil_spl.models.net import Net, evaluating
from cil_spl.models.plan import Layer, Plan

Make = Callable[..., nn.Module]


def network(name: str, make: Make, args: Mapping[str, Any], input_shape: tuple[int, int, int], n_outputs: int) -> Net:
    """The network that a user's function makes, with its plan.

    Args:
        name: of the model, for messages and results.
        make: called with ``input_shape``, ``n_outputs`` and ``args``.
        input_shape: (C, H, W).
        n_outputs: of its last layer.

    Raises:
        RequestError: it gives no module, one that cannot take the input, or other outputs than there should be.
    """
    where = f"model._target_={getattr(make, '__module__', '')}.{getattr(make, '__qualname__', make)}"
    try:
        made = make(input_shape, n_outputs, **args)
    except TypeError as error:
        raise RequestError(f"{where}: {error}; it is called as make(input_shape, n_outputs, **model.args)") from None
    if isinstance(made, Net):
        net = made
    elif isinstance(made, nn.Module):
        parts = made if isinstance(made, nn.Sequential) and not hasattr(made, "over_time") else nn.Sequential(made)
        net = _net(name, parts, input_shape, where)
    else:
        raise RequestError(f"{where}: it gives {type(made).__name__}; it has to give a torch.nn.Module")
    output = net.plan.shapes()[net.plan.output]
    if output != (n_outputs,):
        raise RequestError(f"{where}: its output has the shape {output}; the data set and the task need ({n_outputs},)")
    return net


def _net(name: str, parts: nn.Sequential, input_shape: tuple[int, int, int], where: str) -> Net:
    layers: list[Layer] = []
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    shape: Shape = input_shape
    for key, module in parts.named_children():
        layer_name = f"layer{key}" if key.isdigit() else key
        module = Stateful(module, where) if _has_state(module) else module
        if any(isinstance(p, UninitializedParameter) for p in module.parameters()):
            _shape(module, shape, where)  # a lazy layer takes its shape from what it sees first
        if _plain_neurons(module) and not hasattr(module, "v_init"):
            module.v_init = 0.0  # type: ignore[assignment]
        kind, params = layer_of(module, shape, where)
        layers.append(Layer(layer_name, kind, params))
        modules[layer_name] = module
        shape = Plan(name, input_shape, tuple(layers)).shapes()[layer_name]
    return Net(Plan(name, input_shape, tuple(layers)), modules)


def layer_of(module: nn.Module, shape: Shape, where: str) -> tuple[str, dict[str, Any]]:
    """Kind and parameters of a module as a plan has them; ``module`` or ``stateful`` for one that it has not."""
    if isinstance(module, nn.Conv2d) and _plain_conv(module):
        params = {"out_channels": module.out_channels, "kernel_size": module.kernel_size, "stride": module.stride}
        return "conv", params | {"padding": module.padding, "bias": module.bias is not None}
    if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
        return "linear", {"out_features": module.out_features, "bias": module.bias is not None}
    if _plain_neurons(module) or isinstance(module, nn.ReLU):
        return "neuron", {}
    if isinstance(module, (nn.AvgPool2d, sl.SumPool2d)) and _plain_pool(module):
        return "avgpool" if isinstance(module, nn.AvgPool2d) else "sumpool", {"kernel_size": module.kernel_size}
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        return "flatten", {}
    if isinstance(module, ScaleNorm) or (
        isinstance(module, BATCH_NORMS) and module.affine and module.track_running_stats
    ):
        return "norm", {"norm": "scale" if isinstance(module, ScaleNorm) else "batch"}
    if isinstance(module, Bias):
        return "bias", {}
    if isinstance(module, Add):
        raise RequestError(f"{where}: an Add in a chain has nothing to add; give a Net with a plan for branches")
    kind = "stateful" if isinstance(module, Stateful) else "module"
    return kind, {"shape": _shape(module, shape, where)}


def _plain_conv(conv: nn.Conv2d) -> bool:
    """Whether a plan can say a convolution; one that a subclass computes otherwise is another."""
    return (
        conv.groups == 1
        and set(conv.dilation) == {1}
        and not isinstance(conv.padding, str)
        and conv.padding_mode == "zeros"
        and type(conv).forward is nn.Conv2d.forward
        and type(conv)._conv_forward is nn.Conv2d._conv_forward
    )


def _plain_pool(module: nn.Module) -> bool:
    pool: Any = module
    return (pool.stride is None or pair(pool.stride) == pair(pool.kernel_size)) and not (
        pool.ceil_mode or getattr(pool, "divisor_override", None) or pair(getattr(pool, "padding", 0)) != (0, 0)
    )


def _plain_neurons(module: nn.Module) -> bool:
    """Whether a layer computes what :func:`cil_spl.models.neurons.run` does: no synaptic state, a known reset."""
    if not neurons.is_spiking(module):
        return False
    layer: Any = module
    return (
        layer.tau_syn is None
        and layer.spike_fn in neurons.SPIKE_FNS.values()
        and type(layer.reset_fn) in neurons.RESET_FNS.values()
        and getattr(layer.reset_fn, "subtract_value", None) is None
        and layer.spike_threshold.numel() == 1
    )


def _has_state(module: nn.Module) -> bool:
    """Whether a module that is not itself a layer of neurons carries something from step to step."""
    if _plain_neurons(module):
        return False
    return bool(getattr(module, "over_time", False)) or any(isinstance(m, sl.StatefulLayer) for m in module.modules())


@torch.no_grad()
def _shape(module: nn.Module, shape: Shape, where: str) -> Sequence[int]:
    """What a module makes of zeros."""
    try:
        with evaluating(module):
            out = (
                module(torch.zeros(1, 1, *shape))[0][0]
                if isinstance(module, Stateful)
                else module(torch.zeros(1, *shape))
            )
        return list(out.shape[1:])
    except Exception as error:  # a user's module may raise anything
        raise RequestError(
            f"{where}: {type(module).__name__} cannot take an input of shape {tuple(shape)} ({error})"
        ) from error


class Stateful(nn.Module):
    """A user's module that carries states over time, in the form of a layer of a plan.

    Its states stay inside it; what is handed on says only that there are some. Between two calls they count as
    constants in the backward pass.

    Args:
        module: the user's.
        where: what messages call it.
    """

    def __init__(self, module: nn.Module, where: str = "model") -> None:
        super().__init__()
        self.module, self.where = module, where
        self.whole = bool(getattr(module, "over_time", False))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Shape: (T, B, ...) → (T, B, ...).

        Raises:
            RequestError: a module that starts anew with each call is to go on from an earlier one.
        """
        steps, batch = x.shape[:2]
        if self.whole and state is not None:
            raise RequestError(
                f"{self.where}: a module with over_time=True starts anew with each call, so it cannot run step by "
                "step; use a method that runs all time steps at once, such as method=bptt, or sinabs layers, which "
                "keep their states"
            )
        for layer in self.module.modules():
            if isinstance(layer, sl.StatefulLayer):
                if state is None:
                    layer.reset_states()
                for held in layer.buffers():  # not zero_grad, which clears the gradients of parameters too
                    held.detach_()
        if self.whole:
            return self.module(x), x.new_zeros(1)
        for layer in self.module.modules():
            if hasattr(layer, "num_timesteps"):  # sinabs' squeezing layers
                squeezing: Any = layer
                squeezing.batch_size, squeezing.num_timesteps = -1, steps
        out = self.module(x.transpose(0, 1).flatten(0, 1))  # T B ... -> (B T) ...
        return out.unflatten(0, (batch, steps)).transpose(0, 1), x.new_zeros(1)  # (B T) ... -> T B ...
