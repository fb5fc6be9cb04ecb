"""Random chip networks and recordings."""

from __future__ import annotations

import numpy as np

from cil_spl.chip.network import ChipLayer, ChipNetwork, Destination
from cil_spl.data.events import EVENT


def layer(
    weight: np.ndarray,
    input_shape: tuple[int, int, int],
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    threshold: int = 100,
    min_v_mem: int = -100,
    reset: str = "subtract",
    destinations: tuple[Destination, ...] = (),
    name: str = "layer",
    v_init: int = 0,
) -> ChipLayer:
    """A layer with the defaults that most tests want."""
    return ChipLayer(
        name=name, weight=np.asarray(weight, np.int8), stride=stride, padding=padding, input_shape=input_shape,
        threshold=threshold, min_v_mem=min_v_mem, reset=reset, destinations=destinations, v_init=v_init,
    )  # fmt: skip


def single(weight: np.ndarray, input_shape: tuple[int, int, int], **options: object) -> ChipNetwork:
    """A network of one layer."""
    return ChipNetwork((layer(weight, input_shape, **options),), input_shape)  # type: ignore[arg-type]


def random_layer(
    rng: np.random.Generator, name: str, input_shape: tuple[int, int, int], extreme: bool = False
) -> ChipLayer:
    """Any layer that a chip could hold and a slow reference can run."""
    c, height, width = input_shape
    while True:
        kernel = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        stride = (int(rng.choice([1, 1, 2, 4, 8])), int(rng.choice([1, 1, 2, 4, 8])))
        padding = (int(rng.integers(0, 4)), int(rng.integers(0, 4)))
        if rng.random() < 0.15:
            kernel, stride, padding = (height, width), (1, 1), (0, 0)
        if height + 2 * padding[0] >= kernel[0] and width + 2 * padding[1] >= kernel[1]:
            break
    f = int(rng.choice([1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 24]))
    top = int(rng.choice([5, 40, 127]))
    bottom = int(rng.choice([0, -top, -128]))
    threshold = int(rng.choice([1, 7, 60, 127, 300]))
    if extreme:
        threshold = int(rng.choice([1, 32600, 32700, 32767]))
    return layer(
        rng.integers(bottom, top + 1, (f, c, *kernel)),
        input_shape,
        stride=stride,
        padding=padding,
        threshold=threshold,
        min_v_mem=int(rng.choice([0, -1, -threshold, -3 * threshold if threshold < 10000 else -32768, -32768])),
        reset=str(rng.choice(["subtract", "subtract", "zero"])),
        name=name,
        v_init=int(rng.choice([0, 0, threshold // 2, threshold - 1])),
    )


def random_chain(rng: np.random.Generator, depth: int, extreme: bool = False) -> ChipNetwork:
    """A chain of ``depth`` layers with pooling between them."""
    from dataclasses import replace

    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 9)), int(rng.integers(1, 9)))
    input_shape, layers = shape, []
    for k in range(depth):
        new = random_layer(rng, f"l{k}", shape, extreme)
        f, height, width = new.output_shape
        if k < depth - 1:
            pool = tuple(int(rng.choice([p for p in (1, 2, 4) if p <= n])) for n in (height, width))
            new = replace(new, destinations=(Destination(k + 1, (pool[0], pool[1])),))
            shape = (f, height // pool[0], width // pool[1])
        layers.append(new)
    return ChipNetwork(tuple(layers), input_shape)


def active_chain(rng: np.random.Generator) -> ChipNetwork:
    """Two layers that answer most recordings, with inhibition."""
    first = layer(
        rng.integers(-40, 90, (8, 2, 3, 3)), (2, 8, 8), threshold=150, min_v_mem=-150, destinations=(Destination(1),)
    )
    second = layer(rng.integers(-40, 60, (5, 8, 3, 3)), (8, 6, 6), threshold=200, min_v_mem=-100)
    return ChipNetwork((first, second), (2, 8, 8))


def recording(rng: np.random.Generator, network: ChipNetwork, n: int, outside: bool = True) -> np.ndarray:
    """``n`` events, some of them off the map, at times that often repeat."""
    c, height, width = network.input_shape
    spill = int(outside)
    events = np.zeros(n, EVENT)
    events["x"] = rng.integers(-spill, width + spill, n)
    events["y"] = rng.integers(-spill, height + spill, n)
    events["p"] = rng.integers(0, max(c, 2) if outside else c, n)
    events["t"] = np.sort(rng.integers(0, int(rng.choice([1, 10, 10 * n + 1])), n))
    return events


def joined(recordings: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One flat array and its offsets."""
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in recordings])]).astype(np.int64)
    return np.concatenate([np.zeros(0, EVENT), *recordings]), offsets


def random_graph(rng: np.random.Generator) -> ChipNetwork:
    """A diamond: the first layer feeds two, both feed the last, which may also be fed past them (a residual)."""
    from dataclasses import replace

    size = int(rng.integers(3, 7))
    c, f, g = (int(n) for n in rng.integers(1, 10, 3))
    f = min(f, 2 * g)  # what the last layer takes

    def same(name: str, features_in: int, features: int, k: int, map_size: int) -> ChipLayer:
        made = layer(
            rng.integers(-70, 80, (features, features_in, k, k)), (features_in, map_size, map_size),
            padding=(k // 2, k // 2), threshold=int(rng.choice([60, 120, 200])), min_v_mem=int(rng.choice([-1, -80])),
            reset=str(rng.choice(["subtract", "zero"])), name=name,
        )  # fmt: skip
        return replace(made, v_init=0 if name == "right" else made.threshold // 2)

    pool = int(rng.choice([1, 2]))
    small = size // pool
    stem, left, right, last = (
        same("stem", c, f, 3, size), same("left", f, g, 1, small), same("right", f, g, 3, size),
        same("last", 2 * g, 3, 3, small),
    )  # fmt: skip
    residual = bool(rng.integers(2))
    second = Destination(3, (pool, pool)) if residual else Destination(2)
    stem = replace(stem, destinations=(Destination(1, (pool, pool)), second))
    cores = [int(n) for n in rng.permutation(9)[:4]]
    if residual:  # left feeds right feeds last; stem feeds left and last
        right = replace(same("right", g, g, 3, small), destinations=(Destination(3, (1, 1), g),))
        left = replace(left, destinations=(Destination(2), Destination(3)))
    else:
        left = replace(left, destinations=(Destination(3),))
        right = replace(right, destinations=(Destination(3, (pool, pool), int(rng.integers(0, g + 1))),))
    layers = tuple(replace(part, core=core) for part, core in zip((stem, left, right, last), cores, strict=True))
    return ChipNetwork(layers, (c, size, size))
