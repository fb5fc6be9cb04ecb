"""The GPU's kernels, compiled for a GPU that need not be there; `test_fused_gpu.py` runs this file.

What the interpreter cannot say: that they compile at all, and that every operation is rounded as on the CPU.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from cil_spl.models import fused_gpu, fused_gpu_kernels, neurons
from cil_spl.models.neurons import Observation

LOW = {"min_v_mem": -0.6}
KINDS = [
    LOW,
    {"min_v_mem": None},
    LOW | {"spike_fn": "single"},
    LOW | {"surrogate_grad_fn": "single_exponential"},
    LOW | {"kind": "lif", "tau_mem": 3.0},
]


class Compiled:
    """In the place of a kernel: compiles it for what it would be launched with."""

    def __init__(self, kernel: Any, made: list[str]) -> None:
        self.kernel, self.made = kernel, made

    def __getitem__(self, grid: Any) -> Any:
        return self.launch

    def launch(self, *args: Any, enable_fp_fusion: bool, **fixed: Any) -> None:
        given = dict(zip(self.kernel.arg_names, args, strict=False)) | fixed
        constant = {name: value for name, value in given.items() if value is None or name in fixed}
        signature = {name: "constexpr" if name in constant else mangle_type(given[name]) for name in given}
        places = {(self.kernel.arg_names.index(name),): value for name, value in constant.items()}
        done = triton.compile(
            ASTSource(self.kernel, signature, places),
            target=GPUTarget("cuda", 80, 32),
            options={"enable_fp_fusion": enable_fp_fusion},
        )
        assert done.asm["cubin"]
        self.made.append(done.asm["ptx"])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_operation_is_rounded_as_on_the_cpu(kind: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in ("forward", "backward"):
        monkeypatch.setattr(fused_gpu_kernels, name, Compiled(getattr(fused_gpu_kernels, name), made))
    monkeypatch.setattr(neurons, "fused", fused_gpu)
    monkeypatch.setattr(fused_gpu, "supports", fused_gpu.takes)
    layer, x = neurons.make(**kind), torch.randn(3, 2, 300).requires_grad_()
    counts = torch.zeros(x.shape)
    for observed in (None, Observation(counts), Observation(counts, counts)):
        for straight in (False, True):
            s, v = neurons.run("spike", layer, x, observed=observed, straight_through=straight)
            (s.sum() + v.sum()).backward()
    assert len(made) == 12
    for text in made:
        done = set(re.findall(r"\b(?:add|sub|mul|div|fma|mad|ex2|rcp)[\w.]*\.f(?:32|64)\b", text))
        assert done
        # Some versions flush what is below float32's normal range in a division: 0 spikes either way.
        exact = r"(add|sub|mul|div)\.rn\.f(32|64)|div\.rn\.ftz\.f32"
        assert {one for one in done if not re.fullmatch(exact, one)} == set()
