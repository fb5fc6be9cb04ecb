"""Online pseudo-zeroth-order training: the error goes straight to each layer, through matrices that noise has found.

Paper: M. Xiao, Q. Meng, Z. Zhang, D. He, Z. Lin, "Online Pseudo-Zeroth-Order Training of Neuromorphic Spiking Neural
Networks", ICLR 2026 (arXiv:2407.12516). Its code and tables of hyper-parameters were not at hand: what is marked
"ours" below is our own.

One forward pass with noise z_l on the spikes of each layer. Outputs that move with the noise tell how the layer acts
on them, without a weight above it being read; of the loss, which is known, the gradient is taken as it is:

    s_l~ = s_l + sigma z_l   (or on the membrane, for the spike test alone)
    M_l <- lambda M_l + (1 - lambda) mean_b z_l o~^T / sigma,   E[z o~^T] / sigma ~ J_l^T
    delta_l[t] = (M_l dL/do[t]) psi(u_l[t]),   dL/dW_l = sum_t delta_l[t] a_{l-1}[t]^T,   a the traces of ottt.py
    read-out:   delta = dL/do[t]

    symbol   name here          meaning
    sigma    noise              size of the noise; none at inference
    z        noise_kind         gaussian, rademacher or sphere, all with E[z z^T] = 1
    M        matrices           of each layer of neurons but the last, (n, K); zero at first, bias corrected (ours)
    lambda   momentum           of their running mean
    o~       out                outputs of the noisy pass, less their running mean where ``centre`` (ours)
    K        outputs

``antithetic`` takes -z at every second time step. ``feedback`` chooses what the paper compares with: fixed random
matrices (``random``, direct feedback alignment), the loss itself in the place of outputs and matrices
(``single_point``), or a backward pass layer by layer through the weights (``backward``, OTTT), random weights
(``aligned``, feedback alignment) or their signs (``sign``). With ``local`` each layer has a read-out of its own, whose
error it gets as well; ``intermediate`` lets the read-out in the middle feed all layers before it, with matrices of
their own (ours, of one sentence in the paper's public notes).

With a chip in the loop (``observer=chip``) counts and error are the chip's; the matrices come from the twin's noisy
pass.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from cil_spl.base import ranks
from cil_spl.data.batches import Batch
from cil_spl.methods.bptt import output_neurons
from cil_spl.methods.ottt import Traces, leak_of
from cil_spl.methods.sltt import at_once_on_chip, part_by_part, parts_are_steps, parts_of, total
from cil_spl.models import neurons
from cil_spl.models.forward import forward
from cil_spl.models.net import Net, master, spiking_layers, weighted
from cil_spl.models.neurons import Observation
from cil_spl.models.synapse import CUT
from cil_spl.training.checkpoints import Weights
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires

REQUIRES = Requires(family="snn", observer="optional", neuron={"reset_fn": ("subtract",)})
Feedback = Literal["estimated", "random", "single_point", "backward", "aligned", "sign"]
Noise = Literal["gaussian", "rademacher", "sphere"]
LAYER_BY_LAYER = ("backward", "aligned", "sign")
OUTPUT = "output"


def train(
    ctx: TrainingContext,
    *,
    feedback: Feedback = "estimated",
    lr: Annotated[float, Gt(0)] = 5e-3,
    noise: Annotated[float, Gt(0)] = 0.2,
    noise_kind: Noise = "gaussian",
    noise_on: Literal["spikes", "membranes"] = "spikes",
    antithetic: bool = True,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.999,
    centre: bool = True,
    local: Literal["none", "local", "intermediate"] = "none",
    count_scale: Annotated[float, Gt(0)] = 1.0,
    straight_through_output: bool = True,
    trace_input: bool = True,
    at_once: Annotated[int, Ge(1)] = 4,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train a spiking network by OPZO, or by what it is compared with.

    Args:
        ctx: the run; its ``observer``, where there is one, is a chip in the loop.
        feedback: how layers get their error, see the head of this file.
        lr: learning rate.
        noise: size of the noise, in spikes, or in thresholds on ``membranes``.
        noise_kind, noise_on: its distribution, and where it acts.
        antithetic: whether every second time step has the negative noise of the one before.
        momentum: of the running mean of the matrices.
        centre: whether a running mean is taken off the outputs that the matrices are estimated from.
        local: read-outs of each layer's own, or of the one in the middle as well.
        count_scale: factor on a step's counts before the softmax (an inverse temperature).
        straight_through_output: whether the gradient of the output neurons passes unchanged.
        trace_input: whether the layers that read the input have traces of it too.
        at_once: time steps that are computed together: with fewer, less memory and more time; the matrices learn once
            from all of them.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
    """
    net = ctx.build("snn")
    ctx.scale(net, init_rate)
    errors = Errors(net, feedback, noise, noise_kind, noise_on, antithetic, momentum, centre, local, ctx.seed)
    along = gradient(
        net,
        ctx,
        errors,
        count_scale=count_scale,
        straight_through_output=straight_through_output,
        trace_input=trace_input,
        at_once=at_once,
    )
    learn(
        ctx,
        net,
        along,
        lr=lr,
        params=[*net.parameters(), *errors.readouts.parameters()],
        keep={"errors": errors, "readouts": Weights(errors.readouts)},
    )
    return Trained(ctx.finish(net))


def gradient(
    net: Net,
    ctx: TrainingContext,
    errors: Errors,
    *,
    count_scale: float,
    straight_through_output: bool,
    trace_input: bool = True,
    at_once: int = 1,
) -> Gradient:
    """The update of a batch; options as in :func:`train`."""
    straight = [net.plan.output] if straight_through_output else []
    at_once = at_once if parts_are_steps(net.plan) else 1

    def layer_by_layer(batch: Batch) -> Iterator[Step]:
        seen, steps = at_once_on_chip(ctx, net, batch), range(len(batch.frames))
        weigh = Traces(net, trace_input, errors.weights)
        fire = output_neurons(net, straight_through_output, through_time=False)
        options: dict[str, Any] = {"count_scale": count_scale, "at_once": at_once, "fire": fire, "weigh": weigh}
        yield total(part_by_part(net, ctx, batch, seen, steps, **options))

    def direct(batch: Batch) -> Iterator[Step]:
        weigh = Traces(net, trace_input, lambda name, module: CUT)
        yield total(_parts(net, ctx, errors, batch, weigh, straight, count_scale, at_once))

    return layer_by_layer if errors.feedback in LAYER_BY_LAYER else direct


def _parts(
    net: Net,
    ctx: TrainingContext,
    errors: Errors,
    batch: Batch,
    weigh: Traces,
    straight: Collection[str],
    count_scale: float,
    at_once: int,
) -> Iterator[Step]:
    """Parts of the time steps, each with an update of every layer by itself."""
    frames, seen = batch.frames.to(ctx.device), at_once_on_chip(ctx, net, batch)
    n = len(frames)
    states: list[dict[str, Tensor]] = [{}, {}]

    def loss_of(out: Tensor) -> Tensor:
        return torch.stack([ctx.loss(o, batch, count_scale) for o in out]).sum() / n

    for first, end in parts_of(n, at_once, range(n)):
        x, observed = frames[first:end], seen(first, end)
        fire = Noisy(errors, first, straight, noisy=not observed)
        out, states[0], _ = forward(net, x, states[0], observed, fire=fire, weigh=weigh)
        heads = {OUTPUT: out} | errors.read(fire.spikes)
        told, noisy_heads = fire, heads
        if observed and errors.feedback != "random":  # a chip has no noise: what it would change is asked of the twin
            told = Noisy(errors, first, straight, noisy=True)
            with torch.no_grad():
                noisy_out, states[1], _ = forward(net, x, states[1], fire=told)
                noisy_heads = {OUTPUT: noisy_out} | errors.read(told.spikes)
        errors.learn(told.noise, noisy_heads)
        losses = {head: loss_of(one) for head, one in heads.items() if head != OUTPUT}
        o = out.detach().requires_grad_()
        loss = loss_of(o)
        (e,) = torch.autograd.grad(loss, o)
        found = {OUTPUT: e}
        if errors.middle is not None:
            middle = errors.middle
            (found[middle],) = torch.autograd.grad(losses[middle], heads[middle], retain_graph=True)
        each = errors.losses(ctx, noisy_heads[OUTPUT].detach(), batch, count_scale, n)
        value = (out * e).sum() + sum(losses.values())
        for name, spikes in fire.spikes.items():
            value = value + (spikes * errors.of(name, found, each, told.noise).view_as(spikes)).sum()
        value.backward()
        states = [{name: v.detach() for name, v in state.items()} for state in states]
        yield Step(loss.detach(), out.detach().sum(0))


class Noisy:
    """What neurons do: spikes whose gradient ends at their own layer, and noise on what is sent on.

    Args:
        errors: draws the noise.
        first: the time step that a pass begins with.
        straight: layers whose gradient passes unchanged.
        noisy: whether there is noise.

    Attributes:
        spikes: of each hidden layer, with a graph that ends at its weights; noise: what was added. (T, B, ...).
    """

    def __init__(self, errors: Errors, first: int, straight: Collection[str], *, noisy: bool) -> None:
        self.errors, self.first, self.straight = errors, first, straight
        self.noisy = noisy and errors.feedback != "random"
        self.spikes: dict[str, Tensor] = {}
        self.noise: dict[str, Tensor] = {}

    def __call__(
        self, name: str, layer: Any, current: Tensor, v_mem: Tensor | None, observed: Observation | None
    ) -> tuple[Tensor, Tensor]:
        """Shapes: (T, B, ...) → (T, B, ...), (B, ...)."""
        if name not in self.errors.layers:
            return neurons.run(name, layer, current, v_mem, observed, name in self.straight, through_time=False)
        added = None
        if self.noisy:
            self.noise[name] = self.errors.draw(name, current, self.first)
            added = self.errors.noise * self.noise[name]
        if added is None or self.errors.noise_on == "spikes":
            self.spikes[name], v = neurons.run(name, layer, current, v_mem, observed, through_time=False)
            return self.spikes[name] if added is None else self.spikes[name].detach() + added, v
        # On the membrane for one spike test: what was added is taken off at the next step.
        added = added * layer.spike_threshold.detach()
        gone = torch.cat([torch.zeros_like(added[:1]), leak_of(layer) * added[:-1]])
        shifted = current + (added - gone) / neurons.input_gain(layer)
        self.spikes[name], v = neurons.run(name, layer, shifted, v_mem, observed, through_time=False)
        return self.spikes[name], v - added[-1]


class Errors:
    """What hidden layers of neurons get in the place of a backward pass.

    Args:
        net: the network; of its weights ``sign`` alone reads more than how large they are at first.
        seed: of the noise and of random matrices; others as in :func:`train`.

    Attributes:
        layers: names of the hidden layers of neurons.
        matrices: by head, ``output`` or the layer in the middle, and by layer. (n, K).
        readouts: of single layers, where ``local``.
        middle: the layer whose read-out feeds those before it; None for none.
    """

    def __init__(
        self,
        net: Net,
        feedback: Feedback = "estimated",
        noise: float = 0.2,
        noise_kind: Noise = "gaussian",
        noise_on: str = "spikes",
        antithetic: bool = True,
        momentum: float = 0.999,
        centre: bool = True,
        local: str = "none",
        seed: int = 0,
    ) -> None:
        like = next(net.parameters())
        shapes = net.plan.shapes()
        self.feedback, self.noise, self.noise_kind, self.noise_on = feedback, noise, noise_kind, noise_on
        self.antithetic, self.momentum, self.centre = antithetic, momentum, centre
        self.layers = [name for name in spiking_layers(net) if name != net.plan.output]
        self.generator = torch.Generator().manual_seed(seed)
        self.learned = 0
        outputs = math.prod(shapes[net.plan.output])
        inner = self.layers if local != "none" and feedback not in LAYER_BY_LAYER else []
        self.readouts = nn.ModuleDict(
            {name: nn.Linear(math.prod(shapes[name]), outputs, device=like.device, dtype=like.dtype) for name in inner}
        )
        self.middle = inner[len(inner) // 2] if local == "intermediate" and len(inner) > 1 else None
        fed = {OUTPUT: self.layers}
        if self.middle is not None:
            fed[self.middle] = self.layers[: self.layers.index(self.middle)]
        self.matrices = {
            head: {name: self._fresh(math.prod(shapes[name]), outputs, like) for name in names}
            for head, names in fed.items()
        }
        self.means = {head: like.new_zeros(outputs) for head in fed}
        self.back: dict[str, Tensor] = {}
        for name in weighted(net) if feedback == "aligned" else ():
            weight = master(net.get_submodule(name)).detach()
            self.back[name] = self._random(weight.shape, weight) * weight.std()
        self.last: dict[str, Tensor] = {}

    def _random(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=like.dtype).to(like.device)

    def _fresh(self, n: int, outputs: int, like: Tensor) -> Tensor:
        if self.feedback == "random":
            return self._random((n, outputs), like) / math.sqrt(outputs)
        return like.new_zeros(n, outputs)

    def weights(self, name: str, module: nn.Module) -> Tensor | str | None:
        """What a layer's gradient goes back through, where it goes from layer to layer."""
        if self.feedback == "sign":
            weight: Any = module.weight
            weight = weight.detach()
            return weight.sign() * weight.abs().mean()
        return self.back.get(name)

    def draw(self, name: str, like: Tensor, first: int) -> Tensor:
        """Noise of so many time steps, of which ``first`` is the number of the first. Shape: that of ``like``."""
        found = []
        for t in range(first, first + len(like)):
            again = self.antithetic and t % 2 == 1 and name in self.last
            self.last[name] = -self.last[name] if again else self._one(like[0])
            found.append(self.last[name])
        return torch.stack(found)

    def _one(self, like: Tensor) -> Tensor:
        z = self._random(like.shape, like)
        if self.noise_kind == "rademacher":
            return torch.where(z >= 0, 1.0, -1.0).to(z.dtype)
        if self.noise_kind == "sphere":
            n = z[0].numel()
            return z * (math.sqrt(n) / z.flatten(1).norm(dim=1)).view(-1, *[1] * (z.dim() - 1))  # B -> B 1 ...
        return z

    def read(self, spikes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the layers' own read-outs."""
        return {name: self.readouts[name](spikes[name].flatten(2)) for name in self.readouts}

    @torch.no_grad()
    def learn(self, noise: Mapping[str, Tensor], outs: Mapping[str, Tensor]) -> None:
        """Move the matrices towards what a noisy pass says of them. Shapes (T, B, ...) and (T, B, K)."""
        if self.feedback != "estimated":
            return
        self.learned += 1
        for head, matrices in self.matrices.items():
            out = outs[head].detach()
            if self.centre:
                self.means[head].lerp_(out.mean((0, 1)), 1 - self.momentum)
                out = out - self.means[head] / (1 - self.momentum**self.learned)
            for name, matrix in matrices.items():
                z = noise[name].flatten(0, 1).flatten(1)  # T B ... -> (T B) n
                matrix.lerp_(z.T @ out.flatten(0, 1) / (len(z) * self.noise), 1 - self.momentum)
                ranks.mean(matrix)

    def matrix(self, name: str, head: str = OUTPUT) -> Tensor:
        """The matrix of a layer, (n, K), as far as it is known."""
        known = 1 - self.momentum**self.learned if self.feedback == "estimated" else 1.0
        return self.matrices[head][name] / known

    def of(self, name: str, errors: Mapping[str, Tensor], each: Tensor | None, noise: Mapping[str, Tensor]) -> Tensor:
        """The error of a layer's spikes. Shapes: errors (T, B, K), each (T, B) → (T, B, n)."""
        if each is not None:
            z = noise[name].flatten(2)  # T B ... -> T B n
            return z * (each / self.noise)[..., None]
        found = errors[OUTPUT] @ self.matrix(name).T
        if self.middle is not None and name in self.matrices[self.middle]:
            found = found + errors[self.middle] @ self.matrix(name, self.middle).T
        return found

    def losses(self, ctx: TrainingContext, out: Tensor, batch: Batch, count_scale: float, n: int) -> Tensor | None:
        """The part of each recording and step in the loss, where that is the error; else None. (T, B, K) → (T, B)."""
        if self.feedback != "single_point":
            return None
        found = [[ctx.loss(o[b : b + 1], one_of(batch, b), count_scale) for b in range(len(o))] for o in out]
        mask = batch.mask.to(out)
        return torch.stack([torch.stack(row) for row in found]) * mask / (n * mask.sum().clamp(min=1))

    def state_dict(self) -> dict[str, Any]:
        """What it knows."""
        return {
            "matrices": self.matrices,
            "means": self.means,
            "back": self.back,
            "last": dict(self.last),
            "learned": self.learned,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put :meth:`state_dict` back."""
        self.matrices = {head: {k: v.clone() for k, v in found.items()} for head, found in state["matrices"].items()}
        self.means = {head: value.clone() for head, value in state["means"].items()}
        self.back, self.last = dict(state["back"]), dict(state["last"])
        self.learned = int(state["learned"])
        self.generator.set_state(state["generator"])


def one_of(batch: Batch, b: int) -> Batch:
    """A batch of one of its recordings."""
    return replace(batch, frames=batch.frames[:, b : b + 1], target=batch.target[b : b + 1], mask=batch.mask[b : b + 1])
