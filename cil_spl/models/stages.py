"""A plan as a chip would hold it: weights, then neurons, then pooling, on each core; and where the events go."""

from __future__ import annotations

from dataclasses import dataclass

from cil_spl.base.errors import RequestError
from cil_spl.models.kinds import POOLS, WEIGHTED, Pair, Shape, pair
from cil_spl.models.plan import INPUT, Layer, Plan


@dataclass(frozen=True)
class Source:
    """Events that reach a stage.

    Attributes:
        name: the weight layer of the stage that sends them; ``input`` for the sensor.
        pool: (y, x) of the sum pooling on the way; (1, 1) for none.
    """

    name: str
    pool: Pair = (1, 1)


@dataclass(frozen=True)
class Stage:
    """What one core of the chip would hold.

    Attributes:
        weight: the conv or linear layer.
        neuron: name of the neuron layer after it.
        sources: whose events it takes; those of several are added.
        fold: area of the average pooling in front, by which the weights are divided on a chip.
        input_shape, output_shape: (C, H, W) into the weights and out of the neurons.
    """

    weight: Layer
    neuron: str
    sources: tuple[Source, ...]
    fold: int
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]


def stages(plan: Plan) -> tuple[Stage, ...]:
    """Group a plan into weights → neurons → pooling, in the order in which they are computed.

    Raises:
        RequestError: the plan does not have this form; the message names the layer and what to use instead.
    """
    shapes = plan.shapes()
    neuron_of = _neurons(plan)
    weight_of = {neuron: weight for weight, neuron in neuron_of.items()}
    found = []
    for layer in plan.layers:
        if layer.name not in neuron_of:
            continue
        sources, fold, in_front = _sources(plan, weight_of, layer, shapes)
        found.append(Stage(layer, neuron_of[layer.name], sources, fold, _map3(in_front), _map3(shapes[layer.name])))
    _check_output(plan, found)
    return tuple(found)


def destinations(parts: tuple[Stage, ...], name: str) -> list[tuple[int, Pair]]:
    """Numbers of the stages that take a stage's events, with the pooling on the way."""
    return [(k, source.pool) for k, stage in enumerate(parts) for source in stage.sources if source.name == name]


def followers(plan: Plan, name: str) -> list[str]:
    """Normalisation and bias layers after weights that nothing else reads: what can become part of them."""
    found: list[str] = []
    while True:
        readers = plan.readers[found[-1] if found else name]
        if len(readers) != 1 or plan.layers[readers[0]].kind not in ("norm", "bias"):
            return found
        found.append(plan.layers[readers[0]].name)


def foldable(plan: Plan, chip: bool) -> list[str]:
    """Why a plan's normalisation and biases cannot become part of weights; empty where they can.

    Args:
        chip: whether a chip without biases is to hold them.
    """
    weights = [layer.name for layer in plan.layers if plan.kinds[layer.name].weight]
    after = {name for weight in weights for name in followers(plan, weight)}
    reasons = []
    for layer in plan.layers:
        where = f"model {plan.name}: layer {layer.name} ({layer.kind})"
        shift = layer.kind == "bias" or (layer.kind == "norm" and layer.params["norm"] == "batch")
        if layer.kind in ("norm", "bias") and layer.name not in after:
            reasons.append(f"{where} follows no weights that it alone reads, so it cannot become part of them; "
                           "put it after conv or linear")  # fmt: skip
        elif chip and shift:
            remedy = "leave it out" if layer.kind == "bias" else "use norm: scale, which has no shift"
            reasons.append(f"{where} adds a current, and a chip has no biases; {remedy}, or use target=software")
        elif chip and layer.name in weights and layer.params.get("bias"):
            reasons.append(f"{where} has biases, and a chip has none; use bias: false, or target=software")
    return reasons


ON_A_CHIP = "on a chip every core is weights, then neurons, then pooling"
REMEDY = {
    "delay": "a chip has no delays, so no feedback; use target=software",
    "weigh_time": "a chip counts the events of all times alike; use target=software",
}


def _neurons(plan: Plan) -> dict[str, str]:
    """The neuron layer after each weight layer; a normalisation that becomes part of the weights may stand between.

    Raises:
        RequestError: weights without neurons, or a layer that no core has.
    """
    for layer in plan.layers:
        if layer.kind not in (*WEIGHTED, "neuron", "norm", "bias", "flatten", "add", *POOLS):
            remedy = REMEDY.get(layer.kind, f"{ON_A_CHIP}; use target=software")
            raise RequestError(f"model {plan.name}: layer {layer.name} ({layer.kind}): {remedy}")
    for reason in foldable(plan, chip=True):
        raise RequestError(reason)
    found: dict[str, str] = {}
    for layer in plan.layers:
        where = f"model {plan.name}: layer {layer.name} ({layer.kind})"
        if layer.kind in WEIGHTED:
            after = followers(plan, layer.name)
            readers = [plan.layers[k] for k in plan.readers[(after or [layer.name])[-1]]]
            if len(readers) != 1 or readers[0].kind != "neuron":
                raise RequestError(
                    f"model {plan.name}: layer {layer.name} has no neurons after it, or others read it before them; "
                    f"add a neuron layer: {ON_A_CHIP}"
                )
            found[layer.name] = readers[0].name
        elif layer.kind == "neuron" and layer.name not in found.values():
            raise RequestError(f"{where} stands where a chip needs conv or linear: {ON_A_CHIP}")
    return found


def _sources(
    plan: Plan, weight_of: dict[str, str], layer: Layer, shapes: dict[str, Shape]
) -> tuple[tuple[Source, ...], int, Shape]:
    """What a weight layer is fed by, the area of averages on the way, and the shape in front of a flatten."""
    found: list[tuple[Source, int]] = []

    def follow(name: str, pool: Pair, area: int) -> None:
        if name == INPUT or name in weight_of:
            if name == INPUT and pool != (1, 1):
                pooled = next(other for other in plan.layers if other.kind in POOLS)
                raise RequestError(
                    f"model {plan.name}: layer {pooled.name} ({pooled.kind}) stands where a chip needs conv or linear: "
                    f"{ON_A_CHIP}; pool the events with dataset.preprocess"
                )
            found.append((Source(weight_of.get(name, INPUT), pool), area))
            return
        through = plan.named(name)
        if through.kind in POOLS:
            y, x = pair(through.params["kernel_size"])
            pool = (pool[0] * y, pool[1] * x)
            area *= y * x if through.kind == "avgpool" else 1
        for other in plan.inputs_of(name):
            follow(other, pool, area)

    (front,) = plan.inputs_of(layer.name)
    follow(front, (1, 1), 1)
    while front != INPUT and (plan.named(front).kind == "flatten" or _adds_flattened(plan, front)):
        front = plan.inputs_of(front)[0]
    areas = {area for _, area in found}
    if len(areas) > 1:
        shown = " and ".join(str(area) for area in sorted(areas))
        raise RequestError(
            f"model {plan.name}: layer {layer.name} adds branches that were averaged over {shown} pixels; "
            "on a chip the weights are divided by one area: use the same pooling in all of them, or sumpool"
        )
    return tuple(source for source, _ in found), areas.pop(), shapes[front]


def _adds_flattened(plan: Plan, name: str) -> bool:
    return plan.named(name).kind == "add" and any(
        other != INPUT and plan.named(other).kind == "flatten" for other in plan.inputs_of(name)
    )


def _check_output(plan: Plan, found: list[Stage]) -> None:
    where = f"model {plan.name}"
    if not found:
        raise RequestError(f"{where}: it has no layer with weights; add conv or linear: {ON_A_CHIP}")
    last = found[-1]
    if plan.output != last.neuron:
        raise RequestError(
            f"{where}: its output is layer {plan.output}; on a chip it is the neurons of the last layer with weights "
            f"({last.weight.name})"
        )
    for k, stage in enumerate(found):
        if any(source.name == INPUT for source in stage.sources) != (k == 0):
            what = "the input" if k else "no input"
            raise RequestError(
                f"{where}: layer {stage.weight.name} reads {what}; on a chip the first layer ({found[0].weight.name}) "
                "takes the sensor's events, and it alone"
            )
    for stage in found[:-1]:
        if not destinations(tuple(found), stage.weight.name):
            raise RequestError(
                f"{where}: nothing reads layer {stage.weight.name}; on a chip the last layer alone is read out"
            )


def _map3(shape: Shape) -> tuple[int, int, int]:
    if len(shape) == 1:
        return shape[0], 1, 1
    c, height, width = shape
    return c, height, width
