"""Layers on cores: every limit of the chip, checked before any weight exists.

Memory of a layer with c input and f output features, kernel kx x ky, output map fx x fy before pooling (the vendor's
rule; addresses are bit fields, so each size counts as the next power of two):

    kernel entries = c 2^(ceil log2(kx ky) + ceil log2 f)      neuron entries = f 2^(ceil log2 fx + ceil log2 fy)

Each layer needs a core of its own that holds both: a bipartite matching, found by augmenting paths, so that a network
is refused only when no placement exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.chip.network import ChipNetwork
from cil_spl.models.plan import Plan, pair
from cil_spl.models.stages import destinations, stages

KI = 1024
WIDTH = 80  # columns of a terminal
# (kernel entries, neuron entries) of the nine cores of a Speck 2e/2f.
CORES = (*[(16 * KI, 64 * KI)] * 3, *[(32 * KI, 32 * KI)] * 2, *[(64 * KI, 16 * KI)] * 2, *[(16 * KI, 16 * KI)] * 2)
MAX_INPUT_MAP, MAX_OUTPUT_MAP, MAX_FEATURES, MAX_KERNEL, MAX_PADDING = 128, 64, 1024, 16, 7
STRIDES, POOLS = (1, 2, 4, 8), (1, 2, 4)
READOUT_CLASSES, READOUT_SPREAD = 15, 4


@dataclass(frozen=True)
class Need:
    """What a layer asks of a core; maps, kernel, stride, padding and pool are (y, x).

    ``feeds`` says in words which layers its events go to, for the table.
    """

    name: str
    features_in: int
    features: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    input_map: tuple[int, int]
    output_map: tuple[int, int]
    pools: tuple[tuple[int, int], ...]
    feeds: tuple[str, ...] = ()

    @property
    def kernel_entries(self) -> int:
        return self.features_in * _power(self.kernel[0] * self.kernel[1]) * _power(self.features)

    @property
    def neuron_entries(self) -> int:
        return self.features * _power(self.output_map[0]) * _power(self.output_map[1])

    def fits(self, core: int) -> bool:
        return self.kernel_entries <= CORES[core][0] and self.neuron_entries <= CORES[core][1]


@dataclass(frozen=True)
class Placement:
    """Which core holds which layer, and what the user should know about it."""

    needs: tuple[Need, ...]
    cores: tuple[int, ...]
    warnings: tuple[str, ...]

    def table(self) -> list[dict[str, str | int | float]]:
        """A row for each layer: what its core holds and how full that is (fractions of its two memories)."""
        rows: list[dict[str, str | int | float]] = []
        for need, core in zip(self.needs, self.cores, strict=True):
            kernel, neurons = CORES[core]
            rows.append(
                {
                    "layer": need.name,
                    "core": core,
                    "weights": f"{need.features_in} -> {need.features}, {need.kernel[0]} x {need.kernel[1]}",
                    "output map": f"{need.output_map[0]} x {need.output_map[1]}",
                    "kernel entries": need.kernel_entries,
                    "kernel used": need.kernel_entries / kernel,
                    "neuron entries": need.neuron_entries,
                    "neurons used": need.neuron_entries / neurons,
                }
            )
        return rows

    def __str__(self) -> str:
        """The same in 80 columns, with where each layer's events go; a second destination has a line of its own.

        Where names are too long for that, the ways of the events stand in lines of their own below the table.
        """
        lines = [["layer", "core", "weights", "map", "kernel", "neurons"]]
        ways = [["feeds /pool"]]
        for row, need in zip(self.table(), self.needs, strict=True):
            kernel = f"{_entries(need.kernel_entries)} {row['kernel used']:.0%}"
            neurons = f"{_entries(need.neuron_entries)} {row['neurons used']:.0%}"
            lines.append([need.name, str(row["core"]), str(row["weights"]), str(row["output map"]), kernel, neurons])
            ways.append(list(need.feeds or ("",)))
        beside = [
            [*(line if i == 0 else [""] * len(line)), way]
            for line, feeds in zip(lines, ways, strict=True)
            for i, way in enumerate(feeds)
        ]
        text = _columns(beside)
        if max(map(len, text.splitlines())) <= WIDTH:
            return text
        listed = [[need.name if i == 0 else "", f"-> {way}"] for need in self.needs for i, way in enumerate(need.feeds)]
        return f"{_columns(lines)}\n\nWhere events go (/pool):\n{_columns(listed)}"


def _columns(lines: Sequence[Sequence[str]]) -> str:
    wide = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, wide, strict=True)).rstrip() for line in lines)


def place(plan: Plan, *, readout: bool = False) -> Placement:
    """Place a plan on the nine cores, from its shapes alone.

    Args:
        readout: the last layer feeds the chip's readout stage, so its classes take every fourth feature.

    Raises:
        RequestError: a layer breaks a limit or no placement exists; names layer, value, limit and the way out.
    """
    parts = stages(plan)
    needs = []
    for i, stage in enumerate(parts):
        linear = stage.weight.kind == "linear"
        params = stage.weight.params
        features, fed = stage.output_shape[0], destinations(parts, stage.weight.name)
        if readout and i == len(parts) - 1:
            features = _spread_features(features)
        needs.append(
            Need(
                name=stage.weight.name,
                features_in=stage.input_shape[0],
                features=features,
                kernel=stage.input_shape[1:] if linear else pair(params["kernel_size"]),
                stride=(1, 1) if linear else pair(params.get("stride", 1)),
                padding=(0, 0) if linear else pair(params.get("padding", 0)),
                input_map=stage.input_shape[1:],
                output_map=stage.output_shape[1:],
                pools=tuple(pool for _, pool in fed),
                feeds=tuple(_feeds(parts[k].weight.name, pool) for k, pool in fed) or ("(read out)",),
            )
        )
    return assign(needs, f"model {plan.name}")


def place_network(network: ChipNetwork) -> ChipNetwork:
    """The same network with a core for each layer.

    Raises:
        RequestError: as :func:`place`.
    """
    placement = assign([need_of(network, k) for k in range(len(network.layers))], "chip network")
    layers = [replace(layer, core=core) for layer, core in zip(network.layers, placement.cores, strict=True)]
    return replace(network, layers=tuple(layers))


def placed(network: ChipNetwork, what: str = "chip network") -> Placement:
    """Where a network's layers are, or would go where they have no cores yet.

    Raises:
        RequestError: as :func:`place`; or two layers on one core, or one on a core that does not hold it.
    """
    needs = [need_of(network, k) for k in range(len(network.layers))]
    found = assign(needs, what)
    cores = [layer.core for layer in network.layers if layer.core is not None]
    if len(cores) < len(needs):
        return found
    for need, core in zip(needs, cores, strict=True):
        if cores.count(core) > 1 or core not in range(len(CORES)) or not need.fits(core):
            raise RequestError(f"{what}: layer {need.name} cannot be on core {core}, which is taken or too small")
    return replace(found, cores=tuple(cores))


def need_of(network: ChipNetwork, k: int) -> Need:
    """What layer ``k`` of a chip network asks of its core."""
    layer = network.layers[k]
    f, c, ky, kx = layer.weight.shape
    return Need(
        name=layer.name,
        features_in=c,
        features=f,
        kernel=(ky, kx),
        stride=layer.stride,
        padding=layer.padding,
        input_map=layer.input_shape[1:],
        output_map=layer.output_shape[1:],
        pools=tuple(destination.pool for destination in layer.destinations),
        feeds=tuple(_feeds(network.layers[d.layer].name, d.pool, d.feature_shift) for d in layer.destinations)
        or ("(read out)",),
    )


def _feeds(name: str, pool: tuple[int, int], shift: int = 0) -> str:
    """``conv2 /2 +8``: to layer conv2, pooled by 2, its features 8 further on."""
    return name + (f" /{pool[0]}" if pool != (1, 1) else "") + (f" +{shift}" if shift else "")


def assign(needs: Sequence[Need], what: str) -> Placement:
    """Check every limit and give each layer a core.

    Raises:
        RequestError: as :func:`place`.
    """
    for need in needs:
        _check(need, what)
    if len(needs) > len(CORES):
        raise RequestError(
            f"{what}: {len(needs)} layers with weights ({', '.join(n.name for n in needs)}), a Speck has {len(CORES)} "
            f"cores and each layer needs its own; leave out {len(needs) - len(CORES)}"
        )
    held_by: dict[int, int] = {}  # core -> layer
    for i in range(len(needs)):
        seen: set[int] = set()
        if not _augment(i, needs, held_by, seen):
            _refuse_crowd(i, needs, held_by, seen, what)
    core_of = {layer: core for core, layer in held_by.items()}
    warnings = [
        f"layer {need.name}: its map of {need.output_map[0]} x {need.output_map[1]} does not divide by the pooling "
        f"{pool[0]} x {pool[1]} after it; events of the last row or column are dropped (an assumption: the chip's "
        "behaviour there is not documented)"
        for need in needs
        for pool in need.pools
        if need.output_map[0] % pool[0] or need.output_map[1] % pool[1]
    ]
    return Placement(tuple(needs), tuple(core_of[i] for i in range(len(needs))), tuple(warnings))


def _augment(layer: int, needs: Sequence[Need], held_by: dict[int, int], seen: set[int]) -> bool:
    """Find ``layer`` a core, moving others along if need be (Kuhn's augmenting path)."""
    for core in range(len(CORES)):
        if core in seen or not needs[layer].fits(core):
            continue
        seen.add(core)
        if core not in held_by or _augment(held_by[core], needs, held_by, seen):
            held_by[core] = layer
            return True
    return False


def _refuse_crowd(layer: int, needs: Sequence[Need], held_by: dict[int, int], seen: set[int], what: str) -> None:
    """The layers that compete for the cores ``seen``: one more than there are (Hall's theorem)."""
    crowd = sorted({layer, *(held_by[core] for core in seen)})
    listed = "; ".join(
        f"{needs[i].name} (kernel {_entries(needs[i].kernel_entries)}, neurons {_entries(needs[i].neuron_entries)})"
        for i in crowd
    )
    ways = []
    for i in crowd:
        free = [core for core in range(len(CORES)) if core not in seen]
        if free:
            core = min(free, key=lambda c: _excess(needs[i], c))
            ways.append((_excess(needs[i], core), f"{needs[i].name} would fit core {core} {_missing(needs[i], core)}"))
    remedy = f"; {min(ways)[1]}" if ways else ""
    raise RequestError(
        f"{what}: {len(crowd)} layers compete for {len(seen)} cores ({', '.join(map(str, sorted(seen)))}), the only "
        f"ones that hold them: {listed}{remedy}"
    )


def _excess(need: Need, core: int) -> float:
    return max(need.kernel_entries / CORES[core][0], need.neuron_entries / CORES[core][1])


def _missing(need: Need, core: int) -> str:
    kernel, neurons = CORES[core]
    parts = []
    if need.kernel_entries > kernel:
        parts.append(f"with at most {_entries(kernel)} kernel entries (fewer features or a smaller kernel)")
    if need.neuron_entries > neurons:
        parts.append(f"with at most {_entries(neurons)} neuron entries (fewer features, a stride, or pooling before)")
    return " and ".join(parts)


def _check(need: Need, what: str) -> None:
    def refuse(name: str, value: object, allowed: str, remedy: str) -> None:
        raise RequestError(f"{what}: layer {need.name}: {name} is {value}; the chip allows {allowed}. {remedy}")

    def size(map_size: tuple[int, int]) -> str:
        return f"{map_size[0]} x {map_size[1]}"

    if need.kernel[0] != need.kernel[1]:
        refuse("kernel", size(need.kernel), "square ones only", "Choose a square kernel, or a square map to flatten")
    if max(need.kernel) > MAX_KERNEL:
        limit = f"at most {MAX_KERNEL} x {MAX_KERNEL}"
        refuse("kernel", size(need.kernel), limit, "Before a linear layer, pool or stride the map down to that")
    if max(need.input_map) > MAX_INPUT_MAP:
        limit = f"at most {MAX_INPUT_MAP} x {MAX_INPUT_MAP}"
        refuse("input map", size(need.input_map), limit, "Pool or crop the events (dataset.preprocess)")
    if max(need.output_map) > MAX_OUTPUT_MAP:
        limit = f"at most {MAX_OUTPUT_MAP} x {MAX_OUTPUT_MAP} before pooling"
        refuse("output map", size(need.output_map), limit, "Give the layer a stride, or pool the events before it")
    for name, count in (("input features", need.features_in), ("output features", need.features)):
        if count > MAX_FEATURES:
            refuse(name, count, f"at most {MAX_FEATURES}", "Use fewer, or pool before the layer")
    if not set(need.stride) <= set(STRIDES):
        refuse("stride", size(need.stride), "1, 2, 4 and 8", f"Nearest: {_nearest(max(need.stride), STRIDES)}")
    if not 0 <= min(need.padding) <= max(need.padding) <= MAX_PADDING:
        refuse("padding", size(need.padding), f"0 to {MAX_PADDING}", f"Nearest: {MAX_PADDING}")
    if len(need.pools) > 2:
        refuse("number of destinations", len(need.pools), "at most 2", "Feed fewer layers from it")
    for pool in need.pools:
        if pool[0] != pool[1] or pool[0] not in POOLS:
            refuse("pooling", size(pool), "1, 2 and 4, the same in y and x", f"Nearest: {_nearest(max(pool), POOLS)}")
    if not any(need.fits(core) for core in range(len(CORES))):
        core = min(range(len(CORES)), key=lambda c: _excess(need, c))
        kernel, neurons = CORES[core]
        raise RequestError(
            f"{what}: layer {need.name} fits no core: it needs {_entries(need.kernel_entries)} kernel and "
            f"{_entries(need.neuron_entries)} neuron entries; nearest is core {core} with {_entries(kernel)} and "
            f"{_entries(neurons)}, which would take it {_missing(need, core)}"
        )


def _nearest(value: int, allowed: Sequence[int]) -> int:
    return min(allowed, key=lambda a: abs(a - value))


def _power(n: int) -> int:
    """The next power of two."""
    return 1 << (n - 1).bit_length()


def _entries(n: int) -> str:
    return f"{n // KI} Ki" if n >= KI and n % KI == 0 else str(n)


def _spread_features(classes: int) -> int:
    if classes > READOUT_CLASSES:
        raise RequestError(f"the chip's readout has {READOUT_CLASSES} classes, the network {classes}; read the last "
                           "layer's events instead")  # fmt: skip
    return READOUT_SPREAD * (classes - 1) + 1


def spread_readout(network: ChipNetwork) -> ChipNetwork:
    """The same network for the readout stage of 2e/2f: class k is feature 4k of the last core (readout class k + 1).

    The features between carry no weight and stay silent; ``network.readout`` says which feature is which class.

    Raises:
        RequestError: more than 15 classes, or a last map that is not 1 x 1.
    """
    last = network.layers[-1]
    if network.readout is not None:
        return network
    if last.output_shape[1:] != (1, 1):
        raise RequestError(
            f"chip network: layer {last.name} ends in a map {last.output_shape}; the readout takes 1 x 1"
        )
    classes = network.n_classes
    weight = np.zeros((_spread_features(classes), *last.weight.shape[1:]), np.int8)
    weight[::READOUT_SPREAD] = last.weight
    return replace(
        network,
        layers=(*network.layers[:-1], replace(last, weight=weight)),
        readout=tuple(range(0, READOUT_SPREAD * classes, READOUT_SPREAD)),
    )
