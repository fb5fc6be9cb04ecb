"""What the config group ``trainer`` may say, and what a method needs of the rest of a config.

Without torch: a config is checked before it is known whether anything is to be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from cil_spl.base.annotations import Matches
from cil_spl.base.process import Threads


@dataclass(frozen=True)
class Trainer:
    """How long and how to step; the config group ``trainer``. Times in seconds."""

    epochs: Annotated[int, Ge(1)] = 25
    batch_size: Annotated[int, Ge(1)] = 16
    eval_batch_size: Annotated[int, Ge(1)] = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: Annotated[float, Ge(0), Le(1)] = 0.9
    weight_decay: Annotated[float, Ge(0)] = 0.0
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    warmup_steps: Annotated[int, Ge(0)] = 0
    patience: Annotated[int, Ge(1)] | None = None
    grad_clip: Annotated[float, Gt(0)] | None = None
    max_seconds: Annotated[float, Gt(0)] | None = None
    limit_batches: Annotated[int, Ge(1)] | None = None
    device: Annotated[str, Matches(r"auto|cpu|cuda(:(0|[1-9]\d*))?", "one of cpu, cuda, cuda:NUMBER, auto")] = "cpu"
    precision: Literal["float32", "bf16"] = "float32"
    threads: Threads | None = None


@dataclass(frozen=True)
class Requires:
    """What a method needs; it stands as ``REQUIRES`` beside its ``train``. Without one, nothing is required.

    Attributes:
        family: of the network (``model.family``); None where the method takes either.
        observer: whether it learns from what another machine did in the forward pass; ``optional`` where it can.
        experiences: how many it trains on, one after another; None for any number.
        converts: whether it makes a spiking network of the CNN that it trains.
        spikes: whether that network alone is its result, so that a target which runs a CNN has no use for it.
        neuron: what of ``model.neuron`` it needs: by key, the values that it can do with.
        check: what else of the checked config it has to say, before any data is read: it gives warnings, and raises a
            RequestError where it cannot train so.
    """

    family: Literal["snn", "cnn"] | None = None
    observer: bool | Literal["optional"] = "optional"
    experiences: int | None = 1
    converts: bool = False
    spikes: bool = False
    neuron: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    check: Callable[[Any], Sequence[str]] | None = None
