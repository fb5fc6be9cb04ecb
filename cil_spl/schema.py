"""What a config may say: its groups against the signatures that take them, then the groups against each other.

Type, range and default of an option stand where it is taken: in a function's signature, or in the dataclass of a group
(``training/options.py``, ``models/options.py``, ``data/options.py``, and here where no room takes it). What is checked
without torch comes first, so that most mistakes are answered at once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le, MinLen
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cil_spl.base import fence, options
from cil_spl.base.annotations import Matches, Says, shown
from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import nearest

if TYPE_CHECKING:
    from cil_spl.targets.target import Asked


@dataclass(frozen=True)
class Run:
    """The keys of ``conf/config.yaml`` outside any group."""

    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0  # numpy's largest
    # MLflow takes it as the run's name, and pages and scripts as that of a file.
    name: Annotated[str, Matches(r"[^/\\\x00-\x1f]+", "text without / and \\, such as my-run")] | None = None
    start_from: Annotated[str, MinLen(1)] | None = None
    extensions: Annotated[list[str], Says("a list of modules, [module]")] = field(default_factory=list)


@dataclass(frozen=True)
class Tracking:
    """The config group ``tracking``."""

    enabled: bool = True
    uri: str | None = None
    experiment: Annotated[str, MinLen(1)] = "cilspl"


GROUPS = ("frames", "model", "neurons", "quantize", "trainer", "tracking")
# Groups whose `_target_` is called, with how many of its first parameters the pipeline gives itself.
CALLED = {"dataset": 0, "test_dataset": 0, "observer": 3, "method": 1, "target": 0, "task": 0}
MAY_BE_NULL = ("test_dataset", "observer")
LARGEST = 1e30  # of a number; its multiples and quotients in an optimizer still fit into 32 bits
# For messages: models by family, and a method for each.
FITTING = {"cnn": "cnn, qat_cnn, ptl", "snn": "bptt_snn"}
TRAINED_BY = {"cnn": "conversion or ptl", "snn": "bptt or cil_bptt"}


def check_config(cfg: DictConfig, extensions: Sequence[str] = ()) -> DictConfig:
    """The config with every group typed and in range, and its groups fit for each other.

    Args:
        cfg: as it was composed, or as a run left it.
        extensions: modules whose functions it may name. Its own list has to be among them, and becomes this one.

    Raises:
        RequestError: names the key, its value and what is allowed.
    """
    resolved = _resolve(cfg)
    _check_values(resolved, "")
    out = _top(resolved)
    out["extensions"] = named = fence.check_extensions(resolved.get("extensions"), extensions)
    nodes = {group: _node(resolved, group) for group in (*GROUPS, *CALLED)}
    _register_kinds((nodes["model"] or {}).get("layers"), named)
    for group in GROUPS:
        out[group] = _group(group, nodes[group] or {})
    if out["model"]["_target_"] is not None:
        out["model"]["_target_"] = fence.check_target("model", out["model"]["_target_"], named)
        if out["model"]["width"] != 1:
            raise RequestError(
                f"model.width={out['model']['width']:g}: model._target_={out['model']['_target_']} makes its layers "
                "itself; leave it at 1, and give your function an argument for it in model.args"
            )
    called = {group: node for group in CALLED if (node := nodes[group]) is not None}
    for group, node in called.items():
        _check_called(group, node, named)
    for group in ("dataset", "test_dataset"):
        out[group] = _dataset(group, called[group], named) if group in called else None
    _check_data(out["dataset"], out["test_dataset"], out["frames"])
    _check_neurons(out["model"]["neuron"])
    for group in ("method", "observer", "target", "task"):  # from here on torch is imported
        out[group] = _signature(group, called[group], named) if group in called else None
    checked = OmegaConf.create(out)
    _check_together(checked)
    _check_device(checked.trainer.device)
    _check_precision(checked)
    return checked


def known_part(cfg: DictConfig) -> DictConfig:
    """A run's config without the keys that earlier versions let stand beside the groups and never read (``+foo=3``)."""
    known = [*options.names(Run), *GROUPS, *CALLED]
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key in known])


def requires(cfg: DictConfig) -> Any:
    """What a config's method needs: ``REQUIRES`` beside its function."""
    from cil_spl.training.options import Requires

    function = fence.locate("method", cfg.method._target_, cfg.extensions)
    return getattr(sys.modules.get(getattr(function, "__module__", "")), "REQUIRES", Requires())


def asked(cfg: DictConfig) -> Asked:
    """What a checked config asks of its target."""
    from cil_spl.targets.target import Asked

    neuron: Any = OmegaConf.to_container(cfg.model.neuron)
    observer: Any = None if cfg.observer is None else OmegaConf.to_container(cfg.observer)
    init_rate = float(cfg.method.get("init_rate") or 1.0)
    needs = requires(cfg)
    return Asked(cfg.method.name, cfg.model.family, neuron, init_rate, observer, needs.converts, needs.spikes)


def remarks(cfg: DictConfig) -> list[str]:
    """What a checked config's method has to say of it.

    Raises:
        RequestError: the method cannot train so.
    """
    needs = requires(cfg)
    found = [] if needs.check is None else list(needs.check(cfg))
    if needs.converts and cfg.model.neuron.trained_threshold:
        found.append(
            f"model.neuron.trained_threshold=true: method={cfg.method.name} trains a CNN, which has no thresholds, so "
            "it has no effect"
        )
    return found


def check_experiences(cfg: DictConfig, n: int) -> None:
    """Refuse a method that trains on another number of experiences than the data set has."""
    needed = requires(cfg).experiences
    if needed is not None and n != needed:
        raise RequestError(
            f"dataset={cfg.dataset.name}: it has {n} experiences, but method={cfg.method.name} trains on {needed}"
        )


def _resolve(cfg: DictConfig) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise RequestError(f"{key}: {str(error).splitlines()[0]}") from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _check_values(value: Any, key: str) -> None:
    """Refuse, wherever it stands, a number that is infinite, none or too large for 32 bits, and unresolved text."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"{key}={shown(value)}: needs a finite number")
    if isinstance(value, str) and "${" in value:  # written with a backslash; read again, it would stand for another key
        raise RequestError(f"{key}={shown(value)}: text with ${{ is not allowed; leave out the backslash, or the text")
    if isinstance(value, int | float) and abs(value) > LARGEST:
        raise RequestError(
            f"{key}={shown(value)}: needs a number between -{LARGEST:g} and {LARGEST:g}; training computes in 32 bits"
        )
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        _check_values(inner, f"{key}[{name}]" if isinstance(value, list) else f"{key}.{name}" if key else str(name))


def _top(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The keys outside any group; any other is refused."""
    known = [*options.names(Run), *GROUPS, *CALLED]
    for key, value in resolved.items():
        if key not in known:
            full = key
            while isinstance(value, dict) and value:  # the first that was typed
                name, value = next(iter(value.items()))
                full += f".{name}"
            what = "key" if full == key else f"group {key}"
            raise RequestError(f"{full}={shown(value)}: no such {what}; {nearest(key, known)}")
    return options.checked(Run, {key: resolved[key] for key in options.names(Run) if key in resolved}, "")


def _node(resolved: Mapping[str, Any], group: str) -> dict[str, Any] | None:
    """A group's keys and values; None where it may be absent and is."""
    node = resolved.get(group)
    if node is not None and not isinstance(node, dict):
        raise RequestError(f"{group}={shown(node)}: needs names and values; `cilspl ls` lists what there is to choose")
    if node or group in GROUPS:
        return node
    if group in MAY_BE_NULL:
        return None
    raise RequestError(f"{group}=null: choose one, for example with `cilspl ls`")


def _group(group: str, node: dict[str, Any]) -> dict[str, Any]:
    """A group that is a dataclass."""
    from cil_spl.chip.rounding import Precision
    from cil_spl.data.options import Frames, check_bins
    from cil_spl.models.options import Backend, Model, Neuron, check_layers
    from cil_spl.training.options import Trainer

    kinds = {
        "frames": Frames,
        "model": Model,
        "neurons": Backend,
        "quantize": Precision,
        "trainer": Trainer,
        "tracking": Tracking,
    }
    found = options.checked(kinds[group], node, group)
    if group == "frames":
        check_bins(**found)
    if group == "model":
        found["neuron"] = options.checked(Neuron, found["neuron"], "model.neuron")
        if found["layers"] is not None:
            check_layers(found["layers"])
    return found


def _register_kinds(layers: Any, extensions: Sequence[str]) -> None:
    """Import the user's modules where a block is of no built-in kind: they may register it."""
    from cil_spl.models.options import BLOCKS

    blocks = [block for block in layers or () if isinstance(block, dict)] if isinstance(layers, list) else []
    if any(not set(block) & set(BLOCKS) for block in blocks):
        fence.bring_in(extensions)


def _check_called(group: str, node: dict[str, Any], extensions: Sequence[str]) -> None:
    """Whether what a group names may be called; where it lay in an earlier version it is called by its new name."""
    target = node.get("_target_")
    if target is None and group in MAY_BE_NULL:
        choice = "observer=chip" if group == "observer" else "dataset@test_dataset=NAME"
        raise RequestError(f"{group}.{next(iter(node))}: there is no {group} to set it of; add {choice}")
    node["_target_"] = fence.check_target(group, target, extensions)
    if not isinstance(node.get("name"), str) or not node["name"]:
        raise RequestError(f"{group}.name={shown(node.get('name'))}: needs text, what results call it")


def _dataset(group: str, node: dict[str, Any], extensions: Sequence[str]) -> dict[str, Any]:
    from cil_spl.data import datasets

    return datasets.check_dataset(node, group, extensions)


def _signature(group: str, node: dict[str, Any], extensions: Sequence[str]) -> dict[str, Any]:
    """The keys of a group that is called, as the signature of what it names has them."""
    function = fence.locate(group, node["_target_"], extensions)
    own = {
        key: value for key, value in node.items() if key in options.names(function) or key not in ("_target_", "name")
    }
    return {"_target_": node["_target_"], "name": node["name"]} | options.checked(
        function, own, group, given=CALLED[group]
    )


def _check_data(dataset: Mapping[str, Any], test_dataset: Mapping[str, Any] | None, frames: Mapping[str, Any]) -> None:
    """Data sets that do not go with each other or with the frames."""
    from cil_spl.data.datasets import check_pair
    from cil_spl.data.options import encoding, kind_of

    if test_dataset is not None:
        check_pair(dataset, test_dataset)
    encoding(kind_of(dataset), frames["encode"], frames["by"], frames["duration_us"])


def _check_neurons(neuron: Mapping[str, Any]) -> None:
    """Neurons whose settings do not go with each other."""
    if neuron["kind"] == "lif" and neuron["tau_mem"] is None:
        raise RequestError("model.neuron.tau_mem=null: model.neuron.kind=lif needs a time constant, in time steps")


def _check_together(cfg: DictConfig) -> None:
    """Groups that do not go together; what the target cannot do is its own ``check``."""
    from cil_spl.data import known

    method, model = cfg.method.name, cfg.model
    needs = requires(cfg)
    _check_kind(cfg)
    if needs.family is not None and model.family != needs.family:
        raise RequestError(
            f"model={model.name}: method={method} trains a {needs.family}; allowed are model={FITTING[needs.family]}; "
            f"or method={TRAINED_BY[model.family]}, which train a {model.family}"
        )
    if cfg.observer is None and needs.observer is True:
        raise RequestError(f"observer=none: method={method} needs a chip in the loop; use observer=chip")
    if cfg.observer is not None and needs.observer is False:
        raise RequestError(
            f"observer={cfg.observer.name}: method={method} does not learn from it; use observer=none, or a method "
            "that does, such as cil_bptt or cil_conversion"
        )
    for key, allowed in needs.neuron.items():
        if model.neuron[key] not in allowed:
            raise RequestError(
                f"model.neuron.{key}={model.neuron[key]}: method={method} needs neurons with "
                f"model.neuron.{key}={' or '.join(map(str, allowed))}"
            )
    if (cfg.quantize.aware or model.aware) and model.neuron.min_v_mem is None:
        key = "quantize.aware" if cfg.quantize.aware else "model.aware"
        raise RequestError(
            f"model.neuron.min_v_mem=null: {key}=true rounds by the chip's rule, which needs a lower bound; use "
            f"model.neuron.min_v_mem=-1, or {key}=false"
        )
    known.check_split(cfg.dataset)
    _check_surrogate(model.neuron)
    groups = cfg.dataset.get("split_classes")
    n = len(groups) if groups else cfg.dataset.get("permutations")
    if n:
        check_experiences(cfg, n)
    remarks(cfg)


def _check_kind(cfg: DictConfig) -> None:
    """The target takes the kind of data that the data set gives, by what it says of itself (``takes``)."""
    from cil_spl.data.options import kind_of

    kind, target = kind_of(cfg.dataset), cfg.target.name
    takes = getattr(fence.locate("target", cfg.target._target_, cfg.extensions), "takes", None)
    if takes is not None and kind not in takes:
        raise RequestError(
            f"target={target}: dataset={cfg.dataset.name} gives {kind}, and this target takes {' and '.join(takes)} "
            "only; use target=software, or a data set that gives events"
        )


def _check_surrogate(neuron: DictConfig) -> None:
    from cil_spl.models.surrogates import SURROGATES

    args = OmegaConf.to_container(neuron.surrogate_args)
    assert isinstance(args, dict)
    known = {str(key): value for key, value in args.items()}
    options.checked(SURROGATES[neuron.surrogate_grad_fn], known, "model.neuron.surrogate_args")


def _check_device(name: str) -> None:
    """Refuse to train on a CUDA device that there is not, or with several ranks on one."""
    if not name.startswith("cuda"):
        return
    import torch

    from cil_spl.base import ranks

    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not n:
        without = " (it is built without CUDA)" if torch.version.cuda is None and torch.version.hip is None else ""
        raise RequestError(
            f"trainer.device={name}: torch finds no CUDA device here{without}; use trainer.device=cpu or auto"
        )
    number = name.partition(":")[2]
    if int(number or 0) >= n:
        there = ", ".join(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(n))
        raise RequestError(f"trainer.device={name}: torch finds {there}, and no other; use one that is there, or cpu")
    if number and ranks.count() > 1:
        raise RequestError(
            f"trainer.device={name}: {ranks.count()} processes train together, each on a device of its own; use "
            "trainer.device=cuda"
        )


def _check_precision(cfg: DictConfig) -> None:
    """Refuse bfloat16 where it would undo what a run is for, or where the device has none."""
    asked, device = cfg.trainer.precision, cfg.trainer.device
    if asked == "float32":
        return
    if cfg.quantize.aware or cfg.model.aware:
        key = "quantize.aware" if cfg.quantize.aware else "model.aware"
        raise RequestError(
            f"trainer.precision={asked}: {key}=true trains with weights as the chip rounds them, which {asked} would "
            f"round once more; use trainer.precision=float32, or {key}=false"
        )
    if device == "cpu":
        return
    import torch

    if device == "auto" and not torch.cuda.is_available():
        return
    place = "cuda" if device == "auto" else device
    if torch.version.hip is None and torch.cuda.get_device_capability(place) < (8, 0):
        raise RequestError(
            f"trainer.precision={asked}: {torch.cuda.get_device_name(place)} does not compute in bfloat16 (NVIDIA's "
            "GPUs do from compute capability 8.0 on); use trainer.precision=float32"
        )
