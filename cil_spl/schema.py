"""What a config may say: the dataclass of every group, with ranges, and all cross-checks in one function.

Light on purpose: the command line imports this before it knows what to do.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException

from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.base.words import nearest


def ranged(default: Any, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A number from ``low`` to ``high``, or greater than ``above``."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def one_of(default: Any, *allowed: Any) -> Any:
    """One of a few values."""
    return field(default=default, metadata={"allowed": allowed})


@dataclass
class Frames:
    bins: int = ranged(4, low=1)
    by: str = one_of("time", "time", "count")
    duration_us: int | None = ranged(None, low=1)


@dataclass
class Neuron:
    kind: str = one_of("iaf", "iaf", "lif")
    spike_fn: str = one_of("multi", "multi", "single")
    reset_fn: str = one_of("subtract", "subtract", "zero")
    surrogate_grad_fn: str = one_of(
        "periodic_exponential",
        "periodic_exponential",
        "single_exponential",
        "heaviside",
        "gaussian",
        "multi_gaussian",
        "triangle",
        "sigmoid",
    )
    surrogate_args: dict[str, float] = field(default_factory=dict)
    spike_threshold: float = ranged(1.0, above=0)
    min_v_mem: float | None = ranged(-8.0, high=0)
    tau_mem: float | None = ranged(None, above=0)


@dataclass
class Model:
    name: str = "bptt_snn"
    family: str = one_of("snn", "snn", "cnn")
    aware: bool = False
    preset: str = one_of("quickstart", "quickstart", "scnn6")
    layers: list[Any] | None = None
    neuron: Neuron = field(default_factory=Neuron)


@dataclass
class Bptt:
    _target_: str = ""
    name: str = "bptt"
    lr: float = ranged(5e-3, above=0)
    loss: str = one_of("counts", "counts", "steps")
    count_scale: float = ranged(0.25, above=0)
    straight_through_output: bool = True
    init_rate: float = ranged(1.0, above=0)


@dataclass
class Conversion:
    _target_: str = ""
    name: str = "conversion"
    lr: float = ranged(2e-3, above=0)
    percentile: float = ranged(99.0, low=50, high=100)
    gains: list[float] = field(default_factory=lambda: [8.0])
    normalize_batches: int = ranged(8, low=1)
    init_rate: float = ranged(1.0, above=0)


@dataclass
class CilBptt(Bptt):
    name: str = "cil_bptt"
    plain: float = ranged(0.5, low=0, high=1)
    meter: int = ranged(0, low=0)


@dataclass
class CilConversion:
    _target_: str = ""
    name: str = "cil_conversion"
    lr: float = ranged(5e-3, above=0)
    count_scale: float = ranged(0.25, above=0)
    init_rate: float = ranged(1.0, above=0)
    plain: float = ranged(0.5, low=0, high=1)
    meter: int = ranged(0, low=0)


@dataclass
class ChipInLoop:
    _target_: str = ""
    name: str = "chip"
    layers: str = one_of("all", "output", "all")
    v_mem: bool = False
    die: dict[str, Any] | None = None


@dataclass
class Quantize:
    aware: bool = False


@dataclass
class Software:
    _target_: str = ""
    name: str = "software"


@dataclass
class Accelerator:
    _target_: str = ""
    name: str = "accelerator"
    precision: str = one_of("float32", "float32", "int8")


@dataclass
class Speck:
    _target_: str = ""
    name: str = "speck"
    backend: str = one_of("auto", "auto", "simulator", "device")
    die: dict[str, Any] | None = None
    threads: int | None = ranged(None, low=1)
    max_synops_per_second: float | None = ranged(None, above=0)
    device: str | None = None
    monitor: str = one_of("readout", "readout", "all")
    repeats: int = ranged(1, low=1, high=1000)
    start_delay_us: int = ranged(100_000, low=0, high=60_000_000)
    quiet_us: int = ranged(20_000, low=1, high=60_000_000)
    max_wait_us: int = ranged(2_000_000, low=1, high=600_000_000)


@dataclass
class Classification:
    _target_: str = ""
    name: str = "classification"
    label_smoothing: float = ranged(0.0, low=0, high=1)


@dataclass
class Trainer:
    epochs: int = ranged(25, low=1)
    batch_size: int = ranged(16, low=1)
    eval_batch_size: int = ranged(128, low=1)
    optimizer: str = one_of("adam", "adam", "sgd")
    momentum: float = ranged(0.9, low=0, high=1)
    weight_decay: float = ranged(0.0, low=0)
    schedule: str = one_of("cosine", "constant", "cosine", "step")
    warmup_steps: int = ranged(0, low=0)
    patience: int | None = ranged(None, low=1)
    grad_clip: float | None = ranged(None, above=0)
    max_seconds: float | None = ranged(None, above=0)
    limit_batches: int | None = ranged(None, low=1)
    device: str = one_of("cpu", "cpu", "cuda", "auto")
    threads: int | None = ranged(None, low=1)


@dataclass
class Tracking:
    enabled: bool = True
    uri: str | None = None
    experiment: str = "cilspl"


GROUPS: dict[str, type] = {
    "frames": Frames,
    "model": Model,
    "quantize": Quantize,
    "trainer": Trainer,
    "tracking": Tracking,
}
TARGETS: dict[str, type] = {
    "cil_spl.methods.bptt.train": Bptt,
    "cil_spl.methods.conversion.train": Conversion,
    "cil_spl.methods.cil_bptt.train": CilBptt,
    "cil_spl.methods.cil_conversion.train": CilConversion,
    "cil_spl.chip.observer.ChipObserver": ChipInLoop,
    "cil_spl.targets.software.Software": Software,
    "cil_spl.targets.accelerator.Accelerator": Accelerator,
    "cil_spl.targets.speck.Speck": Speck,
    "cil_spl.tasks.classification.classification": Classification,
}
INSTANTIATED = ("dataset", "test_dataset", "observer", "method", "target", "task")
MAY_BE_NULL = ("test_dataset", "observer")
# What a method trains, and whether it learns from what another machine did.
TRAINS = {"conversion": "cnn", "cil_conversion": "cnn", "bptt": "snn", "cil_bptt": "snn"}
OBSERVES = ("cil_bptt", "cil_conversion")


def check_config(cfg: DictConfig) -> DictConfig:
    """The config with every group typed and in range, and its groups fit for each other.

    Raises:
        RequestError: names the key, its value and what is allowed.
    """
    resolved = _resolve(cfg)
    out: dict[str, Any] = dict(resolved)
    for group, kind in GROUPS.items():
        out[group] = _typed(kind, resolved.get(group) or {}, group)
    for group in INSTANTIATED:
        node = resolved.get(group)
        if not node:
            if group in MAY_BE_NULL:
                out[group] = None
                continue
            raise RequestError(f"{group}=null: choose one, for example with `cilspl ls`")
        target = node.get("_target_")
        if target in fence.MOVED:
            target = node["_target_"] = fence.MOVED[target]
        if target is None and group == "observer":
            raise RequestError(f"observer.{next(iter(node))}: there is no observer to set it of; add observer=chip")
        fence.check_target(group, target, resolved.get("extensions") or [])
        if target in TARGETS:
            out[group] = _typed(TARGETS[target], node, group)
        elif group in ("dataset", "test_dataset"):
            from cil_spl.data import datasets

            datasets.check_dataset(node, group)
        else:
            _check_signature(group, node)
    seed = resolved.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise RequestError(f"seed={seed}: needs a whole number from 0")
    checked = OmegaConf.create(out)
    _check_together(checked)
    return checked


def _check_together(cfg: DictConfig) -> None:
    """Groups that do not go together."""
    method, model, target = cfg.method.name, cfg.model, cfg.target.name
    needs = TRAINS.get(method)
    if needs is not None and model.family != needs:
        fitting = "cnn, qat_cnn" if needs == "cnn" else "bptt_snn"
        raise RequestError(f"model={model.name}: method={method} trains a {needs}; allowed are model={fitting}")
    if target == "accelerator" and model.family != "cnn":
        raise RequestError(
            f"target=accelerator: it runs a CNN, but method={method} trains spikes; use method=conversion"
        )
    if cfg.observer is None and method in OBSERVES:
        raise RequestError(f"observer=none: method={method} needs a chip in the loop; use observer=chip")
    if cfg.observer is not None and method in TRAINS and method not in OBSERVES:
        raise RequestError(
            f"observer={cfg.observer.name}: method={method} does not learn from it; allowed are method="
            f"{', '.join(OBSERVES)}, or observer=none"
        )
    if cfg.observer is not None and target != "speck":
        raise RequestError(
            f"target={target}: observer={cfg.observer.name} puts the target's chip in the loop; use target=speck, "
            "or a method without a chip, such as method=bptt"
        )
    if cfg.observer is not None and cfg.target.backend == "device":
        if cfg.observer.v_mem:
            raise RequestError("observer.v_mem=true: a board does not tell its states; use observer.v_mem=false")
        if cfg.observer.layers == "all" and cfg.target.monitor != "all":
            raise RequestError(
                f"target.monitor={cfg.target.monitor}: observer.layers=all needs every layer's events of the board; "
                "use target.monitor=all, or observer.layers=output"
            )
    neuron = model.neuron
    if neuron.kind != "iaf" and target == "speck":
        raise RequestError(
            f"model.neuron.kind={neuron.kind}: target=speck has integrate-and-fire neurons only (the chip has no "
            "multiplicative leak); use model.neuron.kind=iaf, or target=software"
        )
    if neuron.min_v_mem is None and target != "accelerator":
        raise RequestError(
            "model.neuron.min_v_mem=null: quantising needs a lower bound, or the scale is spent on it and every weight "
            "rounds to zero; use model.neuron.min_v_mem=-1, or a lower one"
        )
    if neuron.kind == "lif" and neuron.tau_mem is None:
        raise RequestError("model.neuron.tau_mem=null: model.neuron.kind=lif needs a time constant, in time steps")


def _resolve(cfg: DictConfig) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise RequestError(f"{key}: {str(error).splitlines()[0]}") from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _typed(kind: type, node: Mapping[str, Any], where: str) -> Any:
    """``node`` as ``kind`` has it: known keys, their types, their ranges."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), dict(node))
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "") or _that_fails(kind, node)
        value: Any = node
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        names = [f.name for f in fields(kind) if not f.name.startswith("_")]
        if key and key.split(".")[0] not in {f.name for f in fields(kind)}:
            raise RequestError(f"{where}.{key}={value}: no such key; {nearest(key, names)}") from None
        reason = str(error).splitlines()[0]
        if isinstance(error, ConfigTypeError):
            reason = "needs names and values, {name: value}" if isinstance(value, list) else "needs a list, [value]"
        raise RequestError(f"{where}.{key}={value}: {reason}") from None
    _check_ranges(kind, merged, where)
    return OmegaConf.to_container(merged)


def _that_fails(kind: type, node: Mapping[str, Any]) -> str:
    """The first key of ``node`` whose value ``kind`` refuses, where OmegaConf's message does not name it."""
    for key in node:
        try:
            OmegaConf.merge(OmegaConf.structured(kind), {key: node[key]})
        except OmegaConfBaseException:
            return key
    return ""


def _check_ranges(kind: type, node: Any, where: str) -> None:
    for f in fields(kind):
        value, meta = node[f.name], f.metadata
        if f.default_factory is Neuron:
            _check_ranges(Neuron, value, f"{where}.{f.name}")
        if value is None or not meta:
            continue
        key = f"{where}.{f.name}={value}"
        if "allowed" in meta and value not in meta["allowed"]:
            raise RequestError(f"{key}: {nearest(str(value), [str(a) for a in meta['allowed']])}")
        low, high, above = meta.get("low"), meta.get("high"), meta.get("above")
        too_low = (low is not None and not value >= low) or (above is not None and not value > above)
        if too_low or (high is not None and not value <= high):
            words = {"at least": low, "at most": high, "more than": above}
            limits = [f"{word} {limit:g}" for word, limit in words.items() if limit is not None]
            raise RequestError(f"{key}: must be {' and '.join(limits)}")


def _check_signature(group: str, node: Mapping[str, Any]) -> None:
    """A function without a dataclass here takes the keywords of its signature."""
    known = inspect.signature(fence.locate(node["_target_"])).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    for key in node:
        if key not in known and key not in ("_target_", "name"):
            raise RequestError(f"{group}.{key}={node[key]}: no such key; {nearest(key, list(known))}")
