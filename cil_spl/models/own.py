"""A user's own network in the place of a plan: a torch module, or a sinabs network.

An ``nn.Sequential`` of layers that a plan knows becomes one layer by layer, so it is quantised, placed and deployed as
a built-in model is. Whatever else is in it stays one layer of its own that no chip holds:

    ``module``     knows no time: all steps in the batch axis, (T B, ...)
    ``stateful``   holds sinabs layers; or says ``over_time = True``, takes (T, B, ...) and starts anew with each call
"""

from __future__ import annotations

import re
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
from cil_spl.models.plain import as_parametrizations, computes_as_torch, is_chain, reason_against, remarks_of
from cil_spl.models.plan import INPUT, Layer, Plan

TAKEN = (INPUT, "plan", "backend", "training")
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
    made = _made(make, args, input_shape, n_outputs, where)
    remarks = _in_float32(made, where)
    as_parametrizations(made)
    if isinstance(made, Net):
        net = made
        for key, module in net.named_children():
            if neurons.is_spiking(module) and (reason := reason_against(module)):
                raise RequestError(f"{where}: layer {key}: {reason}, which no layer of a plan does; leave it out")
    else:
        parts: Any = made if is_chain(made) else nn.Sequential(made)
        net = _net(name, parts, input_shape, where)
    output = net.plan.shapes()[net.plan.output]
    if output != (n_outputs,):
        raise RequestError(f"{where}: its output has the shape {output}; the data set and the task need ({n_outputs},)")
    if not any(p.requires_grad for p in net.parameters()):
        raise RequestError(
            f"{where}: none of its parameters requires a gradient, so there is nothing to train; leave the weights of "
            "a layer free (requires_grad_(True))"
        )
    net.remarks = (*remarks, *remarks_of(net))
    return net


def _made(
    make: Make, args: Mapping[str, Any], input_shape: tuple[int, int, int], n_outputs: int, where: str
) -> nn.Module:
    """What the user's function gives; whatever it raises is said in one sentence, with its line."""
    try:
        made = make(input_shape, n_outputs, **args)
    except TypeError as error:
        raise RequestError(f"{where}: {error}; it is called as make(input_shape, n_outputs, **model.args)") from None
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # a user's function may raise anything
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if frame.filename != __file__]
        own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
        at = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        raise RequestError(f"{where}: it raised {type(error).__name__}: {error}{at}; correct it there") from error
    if not isinstance(made, nn.Module):
        raise RequestError(f"{where}: it gives {type(made).__name__}; it has to give a torch.nn.Module")
    return made


def _in_float32(made: nn.Module, where: str) -> list[str]:
    """Bring a network's parameters and buffers to float32, in which everything here computes; what to say of it."""
    found = {str(p.dtype).removeprefix("torch.") for p in (*made.parameters(), *made.buffers())
             if p.is_floating_point() and p.dtype != torch.float32}  # fmt: skip
    if not found:
        return []
    made.float()
    return [f"{where}: its {' and '.join(sorted(found))} numbers become float32, in which networks are trained"]


def _net(name: str, parts: nn.Sequential, input_shape: tuple[int, int, int], where: str) -> Net:
    layers: list[Layer] = []
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    shape: Shape = input_shape
    for key, module in parts.named_children():
        layer_name = _name(f"layer{key}" if key.isdigit() else key, where)
        module = Stateful(module, where) if _has_state(module) else module
        if any(isinstance(p, UninitializedParameter) for p in module.parameters()):
            _shape(module, shape, where)  # a lazy layer takes its shape from what it sees first
        if _is_plain(module) and not hasattr(module, "v_init"):
            module.v_init = 0.0  # type: ignore[assignment]
        kind, params = layer_of(module, shape, where)
        layers.append(Layer(layer_name, kind, params))
        modules[layer_name] = module
        shape = Plan(name, input_shape, tuple(layers)).shapes()[layer_name]
    return Net(Plan(name, input_shape, tuple(layers)), modules)


def _name(name: str, where: str) -> str:
    """A layer's name, which results, files and messages use.

    Raises:
        RequestError: it cannot be one.
    """
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise RequestError(f"{where}: layer {name}: a name needs letters, digits, _ and -; for example stem")
    if hasattr(Net, name) or name in TAKEN:
        raise RequestError(f"{where}: layer {name}: this name is taken; choose another, for example {name}1")
    return name


def layer_of(module: nn.Module, shape: Shape, where: str) -> tuple[str, dict[str, Any]]:
    """Kind and parameters of a module as a plan has them; ``module`` or ``stateful`` for one that it has not."""
    if isinstance(module, nn.Conv2d) and _plain_conv(module):
        params = {"out_channels": module.out_channels, "kernel_size": module.kernel_size, "stride": module.stride}
        return "conv", params | {"padding": module.padding, "bias": module.bias is not None}
    if isinstance(module, nn.Conv2d) or not (_is_plain(module) or isinstance(module, Add) or computes_as_torch(module)):
        return _own_kind(module, shape, where)
    if isinstance(module, nn.Linear):
        return "linear", {"out_features": module.out_features, "bias": module.bias is not None}
    if _is_plain(module) or isinstance(module, nn.ReLU):
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
    return _own_kind(module, shape, where)


def _own_kind(module: nn.Module, shape: Shape, where: str) -> tuple[str, dict[str, Any]]:
    return "stateful" if isinstance(module, Stateful) else "module", {"shape": _shape(module, shape, where)}


def _plain_conv(conv: nn.Conv2d) -> bool:
    """Whether a plan can say a convolution; one that a subclass computes otherwise is another."""
    return (
        conv.groups == 1
        and set(conv.dilation) == {1}
        and not isinstance(conv.padding, str)
        and conv.padding_mode == "zeros"
        and type(conv).forward is nn.Conv2d.forward
        and type(conv)._conv_forward is nn.Conv2d._conv_forward
        and not vars(conv).keys() & {"forward", "_conv_forward"}
    )


def _plain_pool(module: nn.Module) -> bool:
    pool: Any = module
    return (pool.stride is None or pair(pool.stride) == pair(pool.kernel_size)) and not (
        pool.ceil_mode or getattr(pool, "divisor_override", None) or pair(getattr(pool, "padding", 0)) != (0, 0)
    )


def _is_plain(module: nn.Module) -> bool:
    return neurons.is_spiking(module) and reason_against(module) is None


def _has_state(module: nn.Module) -> bool:
    """Whether a module that is not itself a layer of neurons carries something from step to step."""
    if _is_plain(module):
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
