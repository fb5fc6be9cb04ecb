"""One data set of samples as several experiences, learnt one after another (continual learning).

Two ways, as the literature has them: classes in groups (Split MNIST, Split CIFAR), where each experience uses the
outputs of its own classes (task-incremental) or all of them (class-incremental); and the same images with their pixels
in another order in each experience (permuted MNIST).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data import events, samples
from cil_spl.data.events import Data, Recordings, Splits
from cil_spl.data.samples import Samples


def check_experiences(config: Mapping[str, Any], group: str = "dataset") -> None:
    """Refuse keys of a data set of samples that make no experiences, before a file is opened.

    Raises:
        RequestError: names the key, its value and what is allowed.
    """
    groups, n_classes, permutations = config["split_classes"], config["n_classes"], config["permutations"]
    if groups is None:
        return
    key = f"{group}.split_classes"
    if permutations is not None:
        raise RequestError(f"{group}.permutations={permutations}: {key} makes experiences already; leave one null")
    if n_classes is None:
        raise RequestError(f"{key}={groups}: {group}.n_classes is null, so there are no classes to part; leave it null")
    numbers = [k for one in groups for k in one]
    outside = [k for k in numbers if k >= n_classes]
    if outside:
        raise RequestError(f"{key}={groups}: there is no class {outside[0]}; allowed are 0 to {n_classes - 1}")
    twice = [k for i, k in enumerate(numbers) if k in numbers[:i]]
    if twice:
        raise RequestError(f"{key}={groups}: class {twice[0]} stands there twice; name each at most once")
    if config["outputs"] == "own" and min(map(len, groups)) < 2:
        raise RequestError(
            f"{key}={groups}: with {group}.outputs=own a group needs at least 2 classes to choose between; use larger "
            f"groups, or {group}.outputs=all"
        )


def tested(experiences: Sequence[Splits]) -> Data:
    """The test sets of all experiences, one after another; that of a single one as it is."""
    parts: list[Any] = [one.test for one in experiences]
    if isinstance(parts[0], Recordings):
        return events.joined(parts)
    return samples.joined(parts)


def experiences_of(splits: Splits, config: Mapping[str, Any]) -> tuple[Splits, ...]:
    """The experiences that a checked config asks for; the data set itself where it asks for none.

    Raises:
        RequestError: a class has no training or no test samples.
    """
    if config["split_classes"] is not None:
        return tuple(_of_classes(splits, classes, config["outputs"]) for classes in config["split_classes"])
    if config["permutations"] is not None:
        n, seed = int(config["permutations"]), int(config["permutation_seed"])
        return tuple(_permuted(splits, number, seed) for number in range(n))
    return (splits,)


def _of_classes(splits: Splits, classes: Sequence[int], outputs: str) -> Splits:
    parts = {}
    for name in ("train", "val", "test"):
        part = getattr(splits, name)
        for k in classes if name != "val" else ():
            if not (part.target == k).any():
                what = "training" if name == "train" else "test"
                raise RequestError(
                    f"dataset.split_classes: class {k} has no {what} samples; leave it out, or take more of them"
                )
        parts[name] = part.subset(np.flatnonzero(np.isin(part.target, classes)))
    return replace(splits, **parts, outputs=tuple(classes) if outputs == "own" else None)


def _permuted(splits: Splits, number: int, seed: int) -> Splits:
    """Experience ``number``: the first has its pixels in place, each other one in an order of its own."""
    if number == 0:
        return splits

    def part(samples: Any) -> Samples:
        _, height, width = samples.input_shape
        return replace(samples, order=np.random.default_rng([seed, number]).permutation(height * width))

    return replace(splits, train=part(splits.train), val=part(splits.val), test=part(splits.test))
