"""Layers on cores: what a core can hold, and a placement whenever there is one.

Limits and memory formulas are those of the vendor's documentation of Speck 2e/2f. For c input features, f output features, a
kernel of ky x kx and an output map of fy x fx before pooling:

    kernel entries = c 2^(ceil(log2(kx ky)) + ceil(log2 f)),   neuron entries = f 2^(ceil(log2 fx) + ceil(log2 fy))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cil_spl.chip.network import ChipNetwork
from cil_spl.errors import RequestError
from cil_spl.models.plan import Plan, pair, stages

KI = 1024
# (kernel entries, neuron entries) of the nine cores.
CORES = ((16, 64), (16, 64), (16, 64), (32, 32), (32, 32), (64, 16), (64, 16), (16, 16), (16, 16))
INPUT_MAP, OUTPUT_MAP, FEATURES, KERNEL = 128, 64, 1024, 16
STRIDES, PADDING, POOLS = (1, 2, 4, 8), 7, (1, 2, 4)


@dataclass(frozen=True)
class Need:
    """What a layer asks of a core."""

    name: str
    kernel_entries: int
    neuron_entries: int
    core: int | None = None


@dataclass(frozen=True)
class Placement:
    """Each layer on its core; ``warnings`` are for the person."""

    layers: tuple[Need, ...]
    warnings: tuple[str, ...] = ()

    def table(self) -> list[tuple[str, int, int, int, int, int]]:
        """Rows: layer, core, kernel entries and how many the core has, neuron entries alike."""
        rows = []
        for need in self.layers:
            assert need.core is not None
            kernel, neuron = CORES[need.core]
            rows.append((need.name, need.core, need.kernel_entries, kernel * KI, need.neuron_entries, neuron * KI))
        return rows

    def __str__(self) -> str:
        lines = [f"{'layer':<12} {'core':>4} {'kernel memory':>17} {'neuron memory':>17}"]
        for name, core, kernel, kernel_size, neuron, neuron_size in self.table():
            lines.append(f"{name:<12} {core:>4} {kernel:>8} / {kernel_size:<6} {neuron:>8} / {neuron_size:<6}")
        return "\n".join(lines)


def memory(weight: Sequence[int], output_map: tuple[int, int]) -> tuple[int, int]:
    """Kernel and neuron entries of a layer.

    Args:
        weight: (f, c, ky, kx).
        output_map: (y, x) of the neurons, before pooling.
    """
    f, c, ky, kx = weight
    kernel = c * 2 ** (_log2(ky * kx) + _log2(f))
    return kernel, f * 2 ** (_log2(output_map[0]) + _log2(output_map[1]))


def place(plan: Plan) -> Placement:
    """Place a plan before a weight exists.

    Raises:
        RequestError: a limit of a core is broken, or no placement exists; names layer, value, limit and the nearest remedy.
    """
    needs, warnings = [], []
    parts = stages(plan)
    for i, stage in enumerate(parts):
        c, height, width = stage.input_shape
        f, oy, ox = stage.output_shape
        p = stage.weight.params
        linear = stage.weight.kind == "linear"
        kernel = (height, width) if linear else pair(p["kernel_size"])
        stride = (1, 1) if linear else pair(p["stride"])
        padding = (0, 0) if linear else pair(p["padding"])
        pool = stage.pool
        _limits(stage.weight.name, (c, height, width), (f, oy, ox), kernel, stride, padding, pool, linear)
        if i + 1 < len(parts) and (oy % pool[0] or ox % pool[1]):
            warnings.append(
                f"layer {stage.weight.name}: its {oy} x {ox} map is not a multiple of the pooling {pool[0]} x {pool[1]}; "
                "events of the last row or column are dropped, as the time-stepped network does (on the chip this is not "
                "documented)"
            )
        needs.append(Need(stage.weight.name, *memory((f, c, *kernel), (oy, ox))))
    return Placement(_match(needs), tuple(warnings))


def place_network(network: ChipNetwork) -> ChipNetwork:
    """The chip network with a core for each layer.

    Raises:
        RequestError: no placement exists.
    """
    needs = [Need(layer.name, *memory(layer.weight.shape, layer.output_shape[1:])) for layer in network.layers]
    placed = _match(needs)
    layers = tuple(replace(layer, core=need.core) for layer, need in zip(network.layers, placed, strict=True))
    return replace(network, layers=layers)


def _limits(
    name: str,
    source: tuple[int, int, int],
    out: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    pool: tuple[int, int],
    linear: bool,
) -> None:
    def refuse(what: str, value: object, limit: str, remedy: str) -> None:
        raise RequestError(f"layer {name}: {what} {value} does not go on the chip, which takes {limit}; {remedy}")

    if max(source[1:]) > INPUT_MAP:
        remedy = "pool the events before it (dataset.preprocess.pool=2) or crop"
        refuse("an input map of", f"{source[1]} x {source[2]}", f"at most {INPUT_MAP} x {INPUT_MAP}", remedy)
    if max(out[1:]) > OUTPUT_MAP:
        remedy = "use a larger stride, or pool the events before it (dataset.preprocess.pool=2)"
        refuse(
            "an output map of", f"{out[1]} x {out[2]}", f"at most {OUTPUT_MAP} x {OUTPUT_MAP} before pooling", remedy
        )
    if max(source[0], out[0]) > FEATURES:
        refuse("features:", max(source[0], out[0]), f"at most {FEATURES}", "use fewer")
    if max(kernel) > KERNEL:
        what = "a linear layer over a map of" if linear else "a kernel of"
        remedy = "pool more before it" if linear else "use a smaller one"
        refuse(what, f"{kernel[0]} x {kernel[1]}", f"kernels of at most {KERNEL} x {KERNEL}", remedy)
    if kernel[0] != kernel[1]:
        refuse("a kernel of", f"{kernel[0]} x {kernel[1]}", "square kernels", "make the map or the kernel square")
    if any(s not in STRIDES for s in stride):
        refuse("a stride of", stride, f"strides {', '.join(map(str, STRIDES))}", "use the next of these")
    if max(padding) > PADDING:
        refuse("a padding of", padding, f"paddings of 0 to {PADDING}", "use less")
    if any(q not in POOLS for q in pool):
        refuse("a pooling of", pool, f"poolings of {', '.join(map(str, POOLS))}", "use one of these")


def _match(needs: Sequence[Need]) -> tuple[Need, ...]:
    """A core for each layer by augmenting paths; the smallest fitting core is tried first."""
    by_size = sorted(range(len(CORES)), key=lambda core: (CORES[core][0] * CORES[core][1], core))
    fits = []
    for need in needs:
        cores = [k for k in by_size if _holds(k, need)]
        if not cores:
            raise RequestError(_too_large(need))
        fits.append(cores)
    owner: dict[int, int] = {}

    def settle(i: int, tried: set[int]) -> bool:
        for core in fits[i]:
            if core not in tried:
                tried.add(core)
                if core not in owner or settle(owner[core], tried):
                    owner[core] = i
                    return True
        return False

    for i, need in enumerate(needs):
        if not settle(i, set()):
            rivals = [
                n.name for n, cores in zip(needs, fits, strict=True) if set(cores) & set(fits[i]) and n is not need
            ]
            if len(needs) > len(CORES):
                raise RequestError(
                    f"the network has {len(needs)} layers, the chip {len(CORES)} cores; use fewer layers"
                )
            raise RequestError(
                f"layer {need.name}: it needs {need.kernel_entries} kernel and {need.neuron_entries} neuron entries, which only "
                f"core {', '.join(map(str, sorted(fits[i])))} can hold, and {', '.join(rivals)} need these as well; make one of them "
                "smaller (fewer features, or pool earlier)"
            )
    core_of = {i: core for core, i in owner.items()}
    return tuple(replace(need, core=core_of[i]) for i, need in enumerate(needs))


def _holds(core: int, need: Need) -> bool:
    kernel, neuron = CORES[core]
    return need.kernel_entries <= kernel * KI and need.neuron_entries <= neuron * KI


def _too_large(need: Need) -> str:
    def excess(core: int) -> float:
        kernel, neuron = CORES[core]
        return max(need.kernel_entries / (kernel * KI), need.neuron_entries / (neuron * KI))

    core = min(range(len(CORES)), key=excess)
    kernel, neuron = CORES[core]
    over = [
        what
        for what, n, size in (("kernels", need.kernel_entries, kernel), ("neurons", need.neuron_entries, neuron))
        if n > size * KI
    ]
    remedy = (
        "fewer features, or a larger stride or pooling before it"
        if "neurons" in over
        else "fewer features or a smaller kernel"
    )
    return (
        f"layer {need.name}: it needs {need.kernel_entries} kernel entries and {need.neuron_entries} neuron entries, and no core holds "
        f"that; the nearest, core {core}, has {kernel * KI} and {neuron * KI}. Use {remedy}"
    )


def _log2(n: int) -> int:
    return (n - 1).bit_length()
