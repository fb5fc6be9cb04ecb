"""The GPU's kernels in Triton's interpreter against the pass on the CPU; `test_fused_gpu.py` runs this file.

Apart, because the interpreter has to be asked for (``TRITON_INTERPRET=1``) before triton is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad

from cil_spl.methods import bptt
from cil_spl.models import blocks, fused_gpu, neurons
from cil_spl.models.neurons import Observation
from cil_spl.training.update import Trainer
from tests.methods.test_methods import context

LOW = {"min_v_mem": -0.6}
KINDS: list[dict[str, Any]] = [
    LOW,
    {"min_v_mem": None},
    {"min_v_mem": None, "v_init": 0.5},
    LOW | {"spike_threshold": 0.7},
    LOW | {"spike_fn": "single"},
    LOW | {"spike_fn": "single", "surrogate_grad_fn": "single_exponential"},
    LOW | {"surrogate_grad_fn": "single_exponential", "spike_threshold": 0.7, "surrogate_args": {"grad_width": 0.3}},
    LOW | {"surrogate_args": {"grad_width": 0.3, "grad_scale": 0.8}},
    LOW | {"kind": "lif", "tau_mem": 3.0},
    {"kind": "lif", "tau_mem": 7.0, "min_v_mem": None, "spike_fn": "single"},
]
LAYOUTS = ("as it is", "channels last", "steps alike", "batch first", "of a larger map")
SHAPES = st.sampled_from([(1, 1), (3, 10), (2, 257), (1, 300), (2, 3, 5, 7), (1, 1, 4, 1), (3, 2, 16, 16), (2, 0)])


@contextmanager
def kernels() -> Iterator[None]:
    """Neurons by the GPU's path, whatever device they are on."""
    alone = patch.object(blocks, "reason_against", lambda *_: "on a GPU neurons are computed apart from convolutions")
    with alone, patch.object(neurons, "fused", fused_gpu), patch.object(fused_gpu, "supports", fused_gpu.takes):
        yield


def laid(x: Tensor, layout: str) -> Tensor:
    """The same values, or nearly so, in another layout. Shape (T, B, ...)."""
    if layout == "channels last" and x.dim() == 5:
        return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    if layout == "steps alike":
        return x[:1].expand_as(x)
    if layout == "batch first":
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "of a larger map":
        return torch.cat([x, x], -1)[..., : x.shape[-1]]
    return x


def drawn(shape: tuple[int, ...], steps: int, layout: str) -> Tensor:
    return laid(torch.randn(steps, *shape) * 1.4, layout)


@settings(max_examples=60)
@given(
    st.sampled_from(KINDS), st.booleans(), st.sampled_from(["nothing", "counts", "states"]), SHAPES, st.integers(1, 5),
    st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.booleans(), st.integers(0, 1000),
)  # fmt: skip
@example(LOW, False, "nothing", (3, 2, 16, 16), 5, "channels last", "as it is", True, 0)
@example(LOW, False, "states", (3, 2, 16, 16), 5, "channels last", "as it is", True, 0)
@example(LOW, False, "counts", (2, 257), 4, "as it is", "as it is", False, 0)
@example(LOW | {"kind": "lif", "tau_mem": 3.0}, True, "nothing", (2, 257), 4, "as it is", "as it is", True, 0)
def test_equals_the_cpu(
    kind: dict, straight: bool, observed: str, shape: tuple[int, ...], steps: int, layout: str, other: str,
    started: bool, seed: int,
) -> None:  # fmt: skip
    """Spikes and states to the bit, gradients to 1e-6, of whatever the layer is asked for."""
    torch.manual_seed(seed)
    layer = neurons.make(**kind)
    x = drawn(shape, steps, layout).requires_grad_()
    v0 = laid(torch.randn(1, *shape), other)[0].requires_grad_() if started else None
    counts = laid(torch.randint(0, 3, x.shape).float(), other)
    states = drawn(shape, steps, other) if observed == "states" else None
    seen = None if observed == "nothing" else Observation(counts, states)
    weights = drawn(shape, steps, other)
    inputs = (x,) if v0 is None else (x, v0)

    def everything() -> list[Tensor]:
        s, v = neurons.run("spike", layer, x, v0, seen, straight)
        return [s, v, *grad((s * weights).sum() + (v * v).sum(), inputs)]

    cpu = everything()
    with kernels():
        gpu = everything()
    assert torch.equal(gpu[0], cpu[0])
    assert torch.equal(gpu[1], cpu[1])
    for found, expected in zip(gpu[2:], cpu[2:], strict=True):
        largest = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * max(1.0, largest))


def test_what_came_channels_last_goes_on_so() -> None:
    x = drawn((2, 3, 5, 7), 4, "channels last").requires_grad_()
    with kernels():
        s, v = neurons.run("spike", neurons.make(), x)
        (by_x,) = grad(s.sum() + v.sum(), x)
    assert s.stride() == by_x.stride() == x.stride()
    assert v.stride() == x[0].stride()


def test_without_a_gradient_no_membrane_is_kept() -> None:
    from cil_spl.models import fused_gpu_kernels

    launched = []
    layer = neurons.make()
    real = fused_gpu_kernels.forward

    class Watched:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *args, **fixed: (launched.append(args), real[grid](*args, **fixed))

    x = drawn((2, 9), 3, "as it is")
    with kernels(), patch.object(fused_gpu_kernels, "forward", Watched()):
        plain, _ = neurons.run("spike", layer, x)
        learning, _ = neurons.run("spike", layer, x.requires_grad_())
    assert torch.equal(plain, learning)
    u = fused_gpu_kernels.forward.arg_names.index("u")
    assert [args[u] is None for args in launched] == [True, False]


def test_a_state_carries_over_a_cut() -> None:
    layer, x = neurons.make(), drawn((2, 5), 8, "as it is")
    with kernels():
        whole, v_whole = neurons.run("spike", layer, x)
        first, v = neurons.run("spike", layer, x[:3])
        second, v = neurons.run("spike", layer, x[3:], v)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(v, v_whole)


def test_training_ends_with_the_cpus_weights(tmp_path: Path) -> None:
    """Two epochs of BPTT: convolution, pooling and a linear layer between the neurons, and the optimizer; but for sums
    in another order."""
    trained = []
    for path in ("cpu", "gpu"):
        with kernels() if path == "gpu" else nullcontext():
            ctx = context(tmp_path / path, trainer=Trainer(epochs=2, batch_size=30))
            trained.append(neurons.weights_of(bptt.train(ctx, lr=0.03).net))
    assert trained[0].keys() == trained[1].keys()
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-3, atol=1e-4)
