"""Convolution, neurons and pooling in one pass: what the layers give one by one, whatever their shapes and options."""

from __future__ import annotations

import ctypes
import math
import mmap
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from cil_spl.models import fused, neurons
from cil_spl.models.kernels import neurons as steps_of
from cil_spl.models.kernels.tables import Geometry, Pixels, geometry
from cil_spl.models.neurons import Observation

Out = tuple[Tensor, ...]

SURROGATES = ("periodic_exponential", "single_exponential", "triangle", "sigmoid")
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
FEATURES = st.one_of(st.sampled_from([1, 2, 8, 16, 17]), st.integers(1, 20))

SHAPES = st.fixed_dictionaries(
    {
        "channels": FEATURES,
        "features": FEATURES,
        "size": st.tuples(st.integers(1, 20), st.integers(1, 20)),
        "kernel": st.one_of(st.just((3, 3)), st.tuples(st.integers(1, 5), st.integers(1, 5))),
        "stride": st.one_of(st.just((1, 1)), PAIRS),
        "padding": st.tuples(st.integers(0, 3), st.integers(0, 3)),
        "pool": st.one_of(st.just((2, 2)), PAIRS),
    }
)
DATA = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 9),
        "batch": st.sampled_from([1, 2, 3, 5, 18]),
        "density": st.sampled_from([0.0, 0.02, 0.3, 1.0]),
        "bias": st.booleans(),
        "average": st.booleans(),
        "seed": st.integers(0, 1 << 30),
        "layout": st.sampled_from(["torch", "channels_last", "strided", "expanded"]),
    }
)
NEURONS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["iaf", "lif"]),
        "min_v_mem": st.sampled_from([None, 0.0, -1.0]),
        "spike_fn": st.sampled_from(["multi", "single"]),
        "surrogate_grad_fn": st.sampled_from(SURROGATES),
        "spike_threshold": st.sampled_from([1.0, 0.7]),
        "v_init": st.sampled_from([0.0, 0.5]),
    }
)
PASS = st.fixed_dictionaries(
    {
        "straight": st.booleans(),
        "recompute": st.booleans(),
        "start": st.booleans(),
        "observed": st.sampled_from(["nothing", "nothing", "counts", "states"]),
        "ends": st.booleans(),
        "part_bytes": st.sampled_from([1, 4000, fused.PART_BYTES]),
        "keep_from": st.sampled_from([1, fused.KEEP_FROM, 1 << 30]),
        "only": st.sampled_from(["all", "all", "spikes", "end"]),
    }
)


def fitting(shape: dict[str, Any]) -> dict[str, Any]:
    """With a map that is as large as the kernel and the pooling window need it."""
    sides = zip(shape["size"], shape["kernel"], shape["stride"], shape["padding"], shape["pool"], strict=True)
    return shape | {"size": tuple(max(n, (w - 1) * s + k - 2 * p, 1) for n, k, s, p, w in sides)}


class Drawn:
    """A layer and what enters it: whole numbers over powers of two, so that all sums of currents are exact."""

    def __init__(self, shape: dict[str, Any], data: dict[str, Any], neuron: dict[str, Any], dtype: torch.dtype) -> None:
        torch.manual_seed(data["seed"])
        self.shape, self.data, self.dtype = shape, data, dtype
        layer: Any = neurons.make(**{**neuron, "tau_mem": 3.0 if neuron["kind"] == "lif" else None})
        self.layer = layer.to(dtype)
        self.layer.norm_input = False
        c, f, (ky, kx) = shape["channels"], shape["features"], shape["kernel"]
        spread = 2.0 ** -round(math.log2(max(1.0, math.sqrt(c * ky * kx * data["density"]))))
        self.weight = (torch.randint(-8, 9, (f, c, ky, kx)) * spread / 4).to(dtype)
        self.bias = torch.randint(-4, 5, (f,)).to(dtype) / 8 if data["bias"] else None
        frames = data["steps"], data["batch"], c, *shape["size"]
        values = torch.tensor([1.0, 1.0, 2.0, -1.0, 0.5])[torch.randint(0, 5, frames)]
        self.x = self._laid_out((values * (torch.rand(frames) < data["density"])).to(dtype))
        self.v0 = torch.randint(-8, 9, (data["batch"], f, *self.map())).to(dtype) / 8

    def map(self) -> tuple[int, int]:
        shape = self.shape
        y, x = zip(shape["size"], shape["kernel"], shape["stride"], shape["padding"], strict=True)
        return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in (y, x))  # type: ignore[return-value]

    def _laid_out(self, x: Tensor) -> Tensor:
        layout = self.data["layout"]
        if layout == "channels_last":
            return x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        if layout == "strided":
            return torch.stack([x, x + 1], -1)[..., 0]
        return x[:1].expand_as(x) if layout == "expanded" else x

    def observation(self, kind: str) -> Observation | None:
        """What another machine did: now and then what the layer would have done, too."""
        if kind == "nothing":
            return None
        places = (self.data["steps"], self.data["batch"], self.shape["features"], *self.map())
        counts = torch.randint(0, 4, places).to(self.dtype)
        return Observation(counts, None if kind == "counts" else torch.randint(-8, 9, places).to(self.dtype) / 8)


def one_by_one(
    d: Drawn, x: Tensor, w: Tensor, b: Tensor | None, start: Tensor | None, straight: bool, seen: Observation | None
) -> Out:
    """Torch's convolution, neurons step by step, torch's pooling: pooled spikes and the last state."""
    current = conv2d(x.flatten(0, 1), w, b, d.shape["stride"], d.shape["padding"]).unflatten(0, x.shape[:2])
    spikes, end = neurons.run("spike", d.layer, current, start, seen, straight)
    pooled = avg_pool2d(spikes.flatten(0, 1), d.shape["pool"], divisor_override=None if d.data["average"] else 1)
    if not d.data["average"]:  # sinabs' sum hands no gradient to a window without spikes
        pooled = pooled * (pooled != 0)
    return pooled.unflatten(0, x.shape[:2]), end


def in_one(
    d: Drawn, x: Tensor, w: Tensor, b: Tensor | None, start: Any, straight: bool, seen: Observation | None, **more: Any
) -> Out:
    start = neurons.initial(d.layer) if start is None else start
    return fused.run_block(
        d.layer, x, w, b, start, straight, (d.shape["stride"], d.shape["padding"]), d.shape["pool"],
        d.data["average"], *(seen or (None, None)), **more,
    )[:2]  # fmt: skip


def with_gradients(d: Drawn, run: Any, how: dict[str, Any], **more: Any) -> tuple[Out, list[Tensor | None]]:
    """Outputs, and gradients of the input, the weights, the biases and the start."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in (d.x, d.weight, d.bias, d.v0)]
    x, w, b, v0 = leaves
    start = v0 if how["start"] else None
    d.layer.backend = "sinabs"
    spikes, end = run(d, x, w, b, start, how["straight"], d.observation(how["observed"]), **more)
    generator = torch.Generator().manual_seed(d.data["seed"] + 1)
    loss = x.new_zeros(())  # type: ignore[union-attr]
    if how["only"] != "end":
        loss = loss + (spikes * torch.randn(spikes.shape, generator=generator, dtype=d.dtype)).sum()
    if how["only"] != "spikes" and len(end):
        loss = loss + (end * torch.randn(end.shape, generator=generator, dtype=d.dtype)).sum()
    wanted = [leaf for leaf in (x, w, b, start) if leaf is not None]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return (spikes, end), [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)]


@contextmanager
def parts_of(part_bytes: int, keep_from: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "PART_BYTES", part_bytes)
        patch.setattr(fused, "KEEP_FROM", keep_from)
        yield


def close(found: Tensor, expected: Tensor, relative: float) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= relative * max(float(expected.abs().max()), 1.0)


def compare(shape: dict[str, Any], data: dict[str, Any], neuron: dict[str, Any], how: dict[str, Any], f: Any) -> None:
    """Outputs to the bit, gradients to the rounding of the type."""
    ends = how["ends"] or how["observed"] == "nothing"
    how = how if ends else how | {"only": "spikes"}
    made = Drawn(fitting(shape), data, neuron, f)
    torch.manual_seed(data["seed"])
    (spikes, end), expected = with_gradients(made, one_by_one, how)
    torch.manual_seed(data["seed"])
    with parts_of(how["part_bytes"], how["keep_from"]):
        out, found = with_gradients(made, in_one, how, end=ends, recompute=how["recompute"])
    assert torch.equal(out[0], spikes)
    assert torch.equal(out[1], end) if ends else out[1].numel() == 0
    # Single roundings of as many terms as a weight's gradient has, in no order; doubles have digits to spare.
    relative = 1e-12 if f == torch.float64 else 1e-6 * (1 + math.sqrt(end.numel() * len(spikes)))
    for a, b in zip(found, expected, strict=True):
        assert a is not None
        assert b is not None
        close(a, b, relative)


@given(SHAPES, DATA, NEURONS, PASS)
@example(
    {"channels": 3, "features": 5, "size": (5, 7), "kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    | {"pool": (1, 1)},
    {"steps": 9, "batch": 5, "density": 0.02, "bias": False, "average": True, "seed": 1, "layout": "torch"},
    {"kind": "iaf", "min_v_mem": -1.0},
    {"straight": False, "recompute": True, "start": True, "observed": "nothing", "ends": True, "only": "all"}
    | {"part_bytes": 1, "keep_from": 1},
)  # events behind the last whole window reach no neuron, and not the first one of the next row either
@settings(max_examples=60)
def test_it_is_the_layers_one_by_one(shape: dict, data: dict, neuron: dict, how: dict) -> None:
    compare(shape, data, neuron, how, torch.float64)


@given(SHAPES, DATA, NEURONS, PASS)
@example(
    {"channels": 1, "features": 1, "size": (10, 19), "kernel": (3, 3), "stride": (1, 1), "padding": (0, 0)}
    | {"pool": (2, 2)},
    {"steps": 1, "batch": 1, "density": 0.02, "bias": True, "average": False, "seed": 0, "layout": "torch"},
    {"kind": "iaf", "min_v_mem": 0.0, "spike_threshold": 0.7, "spike_fn": "multi", "v_init": 0.0}
    | {"surrogate_grad_fn": "periodic_exponential"},
    {"straight": False, "recompute": False, "start": False, "observed": "nothing", "ends": False, "only": "all"}
    | {"part_bytes": 1, "keep_from": 1},
)  # a membrane that the forward pass rounded to its bound
@settings(max_examples=40)
def test_it_is_the_layers_one_by_one_in_float32(shape: dict, data: dict, neuron: dict, how: dict) -> None:
    compare(shape, data, neuron, how, torch.float32)


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, theta: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.theta = theta
        return torch.where(u > 0, torch.floor(u / theta), torch.zeros_like(u))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """sinabs': of the distance from the threshold; above it, of twice that from the nearest multiple."""
        (u,) = ctx.saved_tensors
        above = 2 * (u - torch.round(u / ctx.theta) * ctx.theta).abs()
        return grad * torch.exp(-torch.where(u < ctx.theta, ctx.theta - u, above) / 0.5), None


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_is_autograds_through_a_loop_in_torch(recompute: bool) -> None:
    """Nothing of this package but the layer's numbers: a convolution, a loop over the steps, a pooling."""
    torch.manual_seed(4)
    layer: Any = neurons.make(min_v_mem=-0.5).double()
    layer.surrogate_grad_fn.grad_width, layer.surrogate_grad_fn.grad_scale = 0.5, 1.0
    x = torch.poisson(torch.full((6, 3, 20, 9, 8), 0.1, dtype=torch.float64)).requires_grad_()
    weight = (torch.randn(5, 20, 3, 3, dtype=torch.float64) * 0.4).requires_grad_()
    bias, v0 = (torch.randn(*n, dtype=torch.float64).requires_grad_() for n in ((5,), (3, 5, 9, 8)))
    v, pooled = v0, []
    for frame in x:
        u = v + conv2d(frame, weight, bias, padding=1)
        s = Spike.apply(u, 1.0)
        v = torch.relu(u - s + 0.5) - 0.5
        pooled.append(avg_pool2d(s, 2))
    spikes, end = fused.run_block(layer, x, weight, bias, v0, False, ((1, 1), (1, 1)), (2, 2), recompute=recompute)[:2]
    assert torch.equal(spikes, torch.stack(pooled))
    factor, leaves = torch.randn_like(spikes), (x, weight, bias, v0)
    expected = torch.autograd.grad((torch.stack(pooled) * factor).sum() + (v * v).sum(), leaves)
    found = torch.autograd.grad((spikes * factor).sum() + (end * end).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        close(a, b, 1e-12)


SHAPE = {
    "channels": 3, "features": 5, "size": (11, 9), "kernel": (3, 2), "stride": (1, 2), "padding": (1, 0),
    "pool": (2, 2),
}  # fmt: skip
BATCH = {
    "steps": 6, "batch": 19, "density": 0.3, "bias": True, "average": True, "seed": 3, "layout": "torch",
}  # fmt: skip
NEURON = {"kind": "lif", "min_v_mem": -1.0}
PLAINLY = {"straight": False, "start": True, "observed": "nothing", "only": "all"}


def found_with(**how: Any) -> list[Tensor]:
    """What a batch gives, and its gradients."""
    made = Drawn(SHAPE, BATCH | how, NEURON, torch.float32)
    out, gradients = with_gradients(made, in_one, PLAINLY)
    return [*out, *(g for g in gradients if g is not None)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit(threads: None) -> None:
    found = []
    for n in (1, 2, 3, 40):
        torch.set_num_threads(n)
        found.append(found_with())
    assert found[0][0].any()
    assert all(same(one, found[0]) for one in found)


def test_how_a_batch_lies_in_memory_changes_no_bit() -> None:
    found = [found_with(layout=layout) for layout in ("torch", "channels_last", "strided")]
    assert all(same(one, found[0]) for one in found)


def test_two_that_call_at_once_do_not_disturb_each_other(threads: None) -> None:
    torch.set_num_threads(2)
    made = [Drawn(SHAPE, BATCH | {"seed": seed}, NEURON, torch.float32) for seed in range(4)]
    expected = [in_one(d, d.x, d.weight, d.bias, d.v0, False, None)[0] for d in made]
    wrong: list[int] = []

    def call(k: int) -> None:
        d = made[k]
        for _ in range(20):
            if not torch.equal(in_one(d, d.x, d.weight, d.bias, d.v0, False, None)[0], expected[k]):
                wrong.append(k)

    callers = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def in_child(work: Any, seconds: float = 120) -> int | None:
    """Exit code of a forked process that does some work: 0 for no complaint, -11 where it touched what is not its."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
    return child.exitcode


def test_a_forked_process_has_its_own_threads(threads: None) -> None:
    torch.set_num_threads(2)
    d = Drawn(SHAPE, BATCH | {"batch": 4}, NEURON, torch.float32)  # small: torch's own threads do not outlive a fork
    weight = d.weight.requires_grad_()

    def found() -> list[Tensor]:
        spikes, _ = in_one(d, d.x, weight, d.bias, d.v0, False, None)
        return [spikes, *torch.autograd.grad(spikes, weight, torch.ones_like(spikes))]

    expected = found()

    def work() -> None:
        assert same(found(), expected)

    assert in_child(work) == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(mode: Any) -> None:
    d = Drawn(SHAPE, BATCH, NEURON, torch.float32)
    expected = found_with()
    with mode():
        spikes, end = in_one(d, d.x, d.weight.requires_grad_(), d.bias, d.v0, False, None)
    assert torch.equal(spikes, expected[0])
    assert torch.equal(end, expected[1])
    assert not spikes.requires_grad


def test_one_value_may_stand_for_many_and_have_another_type() -> None:
    """The kernels read as many numbers of the maps' type as there are neurons: what is given is made to be that."""
    d = Drawn(SHAPE, BATCH, NEURON, torch.float32)
    counts = torch.randint(0, 3, (6, 19, 5, *d.map()))
    states, v0 = torch.zeros(6, 1, 1, 1, 1), torch.full((5, 1, 1), 0.25, dtype=torch.float64).requires_grad_()
    short = in_one(d, d.x, d.weight.requires_grad_(), d.bias, v0, False, Observation(counts, states))
    start = torch.full((19, 5, *d.map()), 0.25).requires_grad_()
    seen = Observation(counts.float(), torch.zeros(counts.shape))
    whole = in_one(d, d.x, d.weight, d.bias, start, False, seen)
    assert torch.equal(short[0], whole[0])
    assert torch.equal(short[1], whole[1])
    (by_one,) = torch.autograd.grad(short[0].sum(), v0)
    (by_all,) = torch.autograd.grad(whole[0].sum(), start)
    torch.testing.assert_close(by_one, by_all.sum((0, 2, 3)).view(5, 1, 1).double())


def test_states_of_too_few_neurons_are_refused() -> None:
    d = Drawn(SHAPE, BATCH, NEURON, torch.float32)
    with pytest.raises(RuntimeError, match="expand"):
        in_one(d, d.x, d.weight, d.bias, d.v0[:2], False, None)
    with pytest.raises(RuntimeError, match="expand"):
        in_one(d, d.x, d.weight, d.bias, d.v0, False, Observation(torch.zeros(6, 2, 5, *d.map())))


@njit
def decays(distance: Any, width: Any, out: Any) -> None:
    for i in range(len(out)):
        out[i] = steps_of._decay(distance[i], width)


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0, 3.0])
def test_the_exponential_of_gradients_is_one(width: float) -> None:
    """Farther from the threshold the rounding of the distance counts, of what is next to nothing."""
    distance = np.linspace(0, 80, 100001, dtype=np.float32)
    out = np.empty_like(distance)
    decays(distance, np.float32(width), out)
    expected = np.exp(-distance.astype(np.float64) / width)
    seen = distance / width < 87  # below 2 to the power of -126 float32 has no more digits
    off = np.abs(out - expected)[seen] / expected[seen]
    assert np.all(off <= 4e-7 + 1e-7 * (distance / width)[seen])
    assert np.all(np.abs(out - expected) <= 2e-7)


GEOMETRY = st.fixed_dictionaries(
    {
        "channels": st.integers(1, 40),
        "features": st.integers(1, 40),
        "size": st.tuples(st.integers(1, 30), st.integers(1, 30)),
        "kernel": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "stride": st.tuples(st.integers(1, 5), st.integers(1, 5)),
        "padding": st.tuples(st.integers(0, 6), st.integers(0, 6)),
        "pool": st.tuples(st.integers(1, 4), st.integers(1, 4)),
    }
)


def tables_of(shape: dict[str, Any], vector: int) -> tuple[Any, ...]:
    source = (shape["channels"], *shape["size"])
    return source, shape["features"], shape["kernel"], shape["stride"], shape["padding"], shape["pool"], True, vector


def reach(g: Geometry, pixels: Pixels, vector: int) -> dict[str, tuple[int, int]]:
    """Of each access of a kernel, one past the last number that it touches, and how many there are."""
    window = (g.rows - 1) * g.row + g.groups * vector
    last = g.first + (g.out_height - 1) * g.row + (g.out_width - 1) * g.features
    high, wide = g.out_height // g.pool_y * g.pool_y - 1, g.out_width // g.pool_x * g.pool_x - 1
    pooled = vector // 2 if 2 * g.features <= vector else vector
    corner = (g.out_height - 1) * g.stride_y * g.in_row + (g.out_width - 1) * g.stride_x * g.channels
    corner += (g.kernel_y - 1) * g.in_row
    runs = g.stride_y * g.stride_x * g.channels * g.rows * g.lead
    return {
        "neurons": (g.first + g.span, g.size),
        "a map's values": (last + g.features, g.first + g.span),
        "an event's window": (int(pixels.at.max()) + window, g.size),
        "an event's weights": (int(pixels.run.max()) + (g.rows - 1) * g.lead + g.groups * vector, runs),
        "pooling": (
            g.first + high * g.row + wide * g.features + -(-g.features // pooled) * pooled, g.size,
        ),
        "a frame with its padding": (
            (g.height - 1 + g.padding_y) * g.in_row + (g.padding_x + g.width) * g.channels, g.in_size,
        ),
        "a window of it": (corner + g.kernel_x * g.channels, g.in_size),
        "a window in eights": (corner + g.dense_length, g.in_size),
        "features of a pixel": (last + g.feature_groups * g.feature_lanes, g.size),
        "what a pixel sums up": (int(pixels.at.max()) + (g.rows - 1) * g.row + g.length, g.size),
    }  # fmt: skip


@given(GEOMETRY, st.sampled_from([8, 16]))
@settings(max_examples=300)
def test_no_kernel_reaches_past_its_map(shape: dict, vector: int) -> None:
    g, pixels = geometry(*tables_of(fitting(shape), vector))
    assert int(pixels.at.min()) >= 0
    for what, (end, room) in reach(g, pixels, vector).items():
        assert end <= room, what


class Fences:
    """Copies of arrays that end, or begin, where memory begins that must not be touched: a touch kills the process."""

    def __init__(self, at_end: bool) -> None:
        self.at_end = at_end
        self.made: list[tuple[np.ndarray, np.ndarray]] = []
        self.protect = ctypes.CDLL(None).mprotect

    def around(self, what: Any) -> Any:
        if isinstance(what, tuple) and any(isinstance(one, np.ndarray) for one in what):
            return type(what)(*map(self.around, what))
        if not isinstance(what, np.ndarray) or not what.size:
            return what
        page = mmap.PAGESIZE
        room = -(-what.nbytes // page) * page
        memory = mmap.mmap(-1, room + 2 * page)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for edge in (0, page + room):
            assert self.protect(ctypes.c_void_p(address + edge), ctypes.c_size_t(page), 0) == 0
        at = page + (room - what.nbytes if self.at_end else 0)
        copy = np.frombuffer(memory, what.dtype, what.size, at).reshape(what.shape)
        copy[...] = what
        self.made.append((what, copy))
        return copy

    def take(self) -> None:
        """What was written beside them, back to the originals."""
        for original, copy in self.made:
            original[...] = copy


def fenced_examples(seed: int, many: int) -> None:
    """Random layers in the forward and the backward pass, each array of theirs between two fences."""
    rng = np.random.default_rng(seed)
    run = fused.in_threads

    def in_fences(kernel: Any, pieces: int, *args: Any) -> None:
        fences = Fences(bool(rng.integers(2)))
        run(kernel, pieces, *(fences.around(arg) for arg in args))
        fences.take()

    fused.in_threads = in_fences
    torch.set_num_threads(1)
    for _ in range(many):
        pick = lambda *values: values[rng.integers(len(values))]  # noqa: E731
        two = lambda a, b: tuple(int(n) for n in rng.integers(a, b + 1, 2))  # noqa: E731
        shape = {"channels": pick(1, 2, 3, 8, 16, 17, 20), "features": pick(1, 2, 3, 8, 9, 16, 17, 20)}
        shape |= {"size": two(1, 12), "kernel": two(1, 5), "stride": two(1, 3), "padding": two(0, 3), "pool": two(1, 3)}
        data = {"steps": int(rng.integers(1, 4)), "batch": pick(1, 2), "density": pick(0.0, 0.1, 1.0)}
        data |= {"bias": pick(False, True), "average": True, "seed": int(rng.integers(1 << 30)), "layout": "torch"}
        neuron = {"kind": "iaf", "min_v_mem": -1.0}
        how = {"straight": False, "start": True, "observed": pick("nothing", "states"), "only": "all"}
        d = Drawn(fitting(shape), data, neuron, pick(torch.float32, torch.float64))
        with parts_of(pick(1, 1 << 19), pick(1, 1 << 30)):
            with_gradients(d, in_one, how)


def test_nothing_is_touched_beside_what_is_given() -> None:
    assert in_child(lambda: fenced_examples(1, 60)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_nothing_is_touched_beside_what_is_given_to_any_layer(seed: int) -> None:
    assert in_child(lambda: fenced_examples(seed, 3000), 500) == 0
