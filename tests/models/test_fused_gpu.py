"""The GPU's path, on a machine without one: which neurons take it, and its kernels, interpreted and compiled."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cil_spl.models import fused_gpu, neurons

HERE = Path(__file__).parent


class OnGpu:
    """A float32 tensor on a GPU, as far as it is asked."""

    is_cuda, dtype = True, torch.float32


def pytest_on(file: str, tmp_path: Path, **environment: str) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton (pip install -e '.[gpu]'), which is too large to be had for tests alone")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE / file)]
    own = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)} | environment
    done = subprocess.run(command, env=own, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.slow
def test_the_kernels_in_the_interpreter_are_the_cpus_pass(tmp_path: Path) -> None:
    pytest_on("gpu_interpreted.py", tmp_path, TRITON_INTERPRET="1")


@pytest.mark.slow
def test_the_kernels_compile_and_round_as_the_cpu_does(tmp_path: Path) -> None:
    pytest_on("gpu_compiled.py", tmp_path, TRITON_INTERPRET="0")


def test_it_is_taken_on_a_gpu_with_triton_and_else_not(monkeypatch: pytest.MonkeyPatch) -> None:
    layer: Any = neurons.make()
    on_gpu: Any = OnGpu()
    for there in (True, False):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, there=there: there or None)
        assert fused_gpu.supports(layer, on_gpu) == there
        assert not fused_gpu.supports(layer, torch.zeros(2, 2))
        assert not fused_gpu.supports(neurons.make(reset_fn="zero"), on_gpu)


@pytest.mark.parametrize("kind", [{}, {"kind": "lif", "tau_mem": 3.0}, {"spike_fn": "single"}], ids=str)
def test_the_kernels_take_plain_neurons(kind: dict) -> None:
    assert fused_gpu.takes(neurons.make(**kind), torch.zeros(2, 2))


@pytest.mark.parametrize(
    "kind",
    [
        {"reset_fn": "zero"},
        {"trained_threshold": True},
        {"surrogate_grad_fn": "triangle"},
        {"threshold_per": "channel", "features": 2},
    ],
    ids=str,
)
def test_what_the_kernels_do_not_compute_goes_step_by_step(kind: dict) -> None:
    assert not fused_gpu.takes(neurons.make(**kind), torch.zeros(2, 2))


def test_the_kernels_take_one_number_of_a_layer() -> None:
    layer = neurons.make(min_v_mem=-1.0)
    layer.min_v_mem = torch.nn.Parameter(torch.tensor([-1.0, -2.0]))
    assert not fused_gpu.takes(layer, torch.zeros(2, 2))
    layer = neurons.make(kind="lif", tau_mem=3.0)
    layer.tau_mem = torch.nn.Parameter(torch.tensor([3.0, 4.0]), requires_grad=False)
    assert not fused_gpu.takes(layer, torch.zeros(2, 2))


def test_the_kernels_take_float32_alone() -> None:
    assert not fused_gpu.takes(neurons.make(), torch.zeros(2, 2).bfloat16())


def test_the_device_chooses_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(torch.Tensor):
        is_cuda = True

    asked = []
    monkeypatch.setattr(fused_gpu, "supports", lambda layer, current: True)
    monkeypatch.setattr(fused_gpu, "run", lambda *given, **how: asked.append((*given, how)) or ("spikes", "states"))
    layer, x = neurons.make(), torch.ones(2, 3).as_subclass(Elsewhere)
    assert neurons.run("n", layer, x, straight_through=True) == ("spikes", "states")
    ((given, current, start, straight, how),) = asked
    assert given is layer
    assert current is x
    assert start.shape == (3,)
    assert straight
    assert how == {"through_time": True}


def test_doctor_says_what_a_gpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from cil_spl.cli import doctor

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda place: "Card")
    for there in (True, False):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, there=there: there or None)
        said = {name: text for _, name, text in doctor.computing()}
        assert said["CUDA"] == "Card"
        assert ("step by step" in said.get("triton", "")) != there


def test_on_the_cpu_the_kernels_are_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cil_spl.models.fused_gpu_kernels", None)
    spikes, _ = neurons.run("n", neurons.make(), torch.ones(2, 3, requires_grad=True))
    spikes.sum().backward()


@pytest.mark.parametrize("shape", [(3, 2, 4, 5, 6), (3, 2, 7), (3, 1, 1, 4, 1), (1, 2, 3), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_rows_are_views_of_what_lies_densely(shape: tuple[int, ...], last: bool) -> None:
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
    if last and x.dim() == 5:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])
    order = fused_gpu.memory_order(x)
    flat = fused_gpu.rows(x, order)
    assert flat.shape == (shape[0], torch.Size(shape[1:]).numel())
    assert flat.data_ptr() == x.data_ptr()
    assert torch.equal(fused_gpu.maps(flat, shape, order), x)


def test_rows_of_other_tensors_are_in_the_same_order() -> None:
    x = torch.randn(3, 2, 4, 5, 6)
    last = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (3, 2))
    order = fused_gpu.memory_order(last)
    assert order == [1, 3, 4, 2]
    assert torch.equal(fused_gpu.rows(x, order), fused_gpu.rows(last, order))
    alike = x[:1].expand_as(x)
    order = fused_gpu.memory_order(alike)
    assert torch.equal(fused_gpu.maps(fused_gpu.rows(alike, order), alike.shape, order), alike)
