"""The step of one input event in LLVM's vector types, 64 neurons at a time, which any processor has.

numba keeps its wrap-around checks on indexed arrays, counts references to them and finds no mask of the neurons that
fired; here there is nothing of the kind.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from cil_spl.chip.kernels.tables import NARROW, NOWHERE, WIDE

_word, _half = ir.IntType(64), ir.IntType(16)


class Window(NamedTuple):
    """What an event may reach: ``rows`` x ``lanes`` membranes, a row every ``row``, weights a row every ``lead``."""

    row: int
    lead: int
    rows: int
    lanes: int


class Bounds(NamedTuple):
    """Of a layer's neurons, int16: lower bound, threshold, and what remains of a state that fired."""

    low: np.int16
    threshold: np.int16
    keep: np.int16


class Masks(NamedTuple):
    """Which neurons fired: pairs of a mask that is not zero and, where its first bit stands, the event that its neuron
    then fires, int64; ``saturations`` [1], int64, counts sums that left 16 bits."""

    pairs: np.ndarray
    saturations: np.ndarray


class _Vectors:
    """Vectors of 16-bit numbers while LLVM's instructions are put together."""

    def __init__(self, context: Any, builder: Any, lanes: int) -> None:
        self.context, self.builder, self.lanes = context, builder, lanes
        self.type = ir.VectorType(_half, lanes)

    def splat(self, value: Any) -> Any:
        undefined = ir.Constant(self.type, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def pointer(self, array: Any, index: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(array, [index]), self.type.as_pointer())

    def load(self, array: Any, index: Any) -> Any:
        return self.builder.load(self.pointer(array, index), align=2)

    def store(self, values: Any, array: Any, index: Any) -> None:
        self.builder.store(values, self.pointer(array, index), align=2)

    def mask(self, condition: Any, first: int = 0) -> Any:
        """The condition's lanes as bits of a 64-bit word, from bit ``first`` on."""
        bits = self.builder.bitcast(condition, ir.IntType(self.lanes))
        bits = bits if self.lanes == 64 else self.builder.zext(bits, _word)
        return self.builder.shl(bits, _word(first)) if first else bits

    def step(self, v: Any, neuron: Any, w: Any, low: Any, threshold: Any) -> Any:
        """Add, clip from below, compare, subtract and store; the condition that a neuron fired."""
        builder, low, threshold = self.builder, self.splat(low), self.splat(threshold)
        state = builder.add(self.load(v, neuron), w)
        state = builder.select(builder.icmp_signed(">", state, low), state, low)
        fired = builder.icmp_signed(">=", state, threshold)
        self.store(builder.select(fired, builder.sub(state, threshold), state), v, neuron)
        return fired

    def resident_step(self, state: Any, w: Any, low: Any, threshold: Any) -> tuple[Any, Any]:
        """As :meth:`step`, of a state that is a value; the new one and the condition. What the next step waits for is
        one comparison and one choice; the rest is done beside it."""
        builder, low, threshold = self.builder, self.splat(low), self.splat(threshold)
        fired = builder.icmp_signed(">=", state, builder.sub(threshold, w))
        added = builder.add(state, w)
        clipped = builder.select(builder.icmp_signed(">", added, low), added, low)
        return builder.select(fired, builder.add(state, builder.sub(w, threshold)), clipped), fired

    def exact_step(self, v: Any, neuron: Any, w: Any, low: Any, threshold: Any, keep: Any) -> tuple[Any, Any]:
        """As :meth:`step`; the conditions that a neuron fired and that its sum left 16 bits.

        The thresholds are read as unsigned numbers: 0 is reached by every state, ``NEVER`` by none.
        """
        builder = self.builder
        name, kind = f"llvm.sadd.sat.v{self.lanes}i16", ir.FunctionType(self.type, [self.type, self.type])
        saturating = cgutils.get_or_insert_function(builder.module, kind, name)
        old, zero, low, keep = self.load(v, neuron), self.splat(_half(0)), self.splat(low), self.splat(keep)
        reached = builder.icmp_signed("!=", w, self.splat(_half(NOWHERE)))
        state = builder.call(saturating, [old, w])
        saturated = builder.and_(builder.icmp_signed("!=", state, builder.add(old, w)), reached)
        state = builder.select(builder.icmp_signed(">", state, low), state, low)
        positive = builder.select(builder.icmp_signed(">", state, zero), state, zero)
        fired = builder.and_(builder.icmp_unsigned(">=", positive, threshold), reached)
        state = builder.select(fired, builder.and_(builder.sub(state, threshold), keep), state)
        self.store(builder.select(reached, state, old), v, neuron)
        return fired, saturated


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """The pointer to an array's numbers."""
    return context.make_array(kind)(context, builder, value).data


def _append(builder: Any, pairs: Any, m: Any, mask: Any, event: Any) -> Any:
    """Write a pair after the first ``m`` words; the new ``m``, the same for a mask of zero."""
    builder.store(mask, builder.gep(pairs, [m]))
    builder.store(event, builder.gep(pairs, [builder.add(m, ir.Constant(m.type, 1))]))
    some = builder.zext(builder.icmp_unsigned("!=", mask, _word(0)), m.type)
    return builder.add(m, builder.shl(some, ir.Constant(m.type, 1)))


def fixed(rows: int, lanes: int, seldom: bool, widest: int = WIDE) -> Any:
    """The step of one input event whose window has so many rows and lanes.

    The window of membranes from ``v[at]`` on takes the ``weight`` from ``w`` on; the pairs of masks are appended at
    ``m``, ``first`` being the event of the window's first neuron. Rows of up to 32 lanes share a mask by two. Returns
    the new ``m``. With ``seldom``, masks are written where one is not zero: less work, and a branch that is foretold
    wrongly now and then. Vectors have ``widest`` lanes at most.
    """
    pieces, x = [], 0
    while x < lanes:
        pieces.append((x, next(n for n in (WIDE, NARROW, 16) if n <= min(widest, lanes - x))))
        x += pieces[-1][1]

    @intrinsic
    def step(typing_context, v, weight, at, w, row, lead, bounds, pairs, first, m):  # type: ignore[no-untyped-def]
        integer = types.intp
        signature = integer(v, weight, integer, integer, integer, integer, bounds, pairs, types.int64, integer)

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            v, weight, at, w, row, lead, bounds, pairs, first, m = args
            v, weight, pairs = (
                _data(context, builder, signature.args[i], value) for i, value in ((0, v), (1, weight), (7, pairs))
            )
            low, threshold, _ = cgutils.unpack_tuple(builder, bounds)
            masks = {}  # by the row and lane of a mask's first bit
            for y in range(rows):
                down = ir.Constant(row.type, y)
                neuron, source = builder.add(at, builder.mul(down, row)), builder.add(w, builder.mul(down, lead))
                for x, n in pieces:
                    vectors, right = _Vectors(context, builder, n), ir.Constant(row.type, x)
                    values = vectors.load(weight, builder.add(source, right))
                    fired = vectors.step(v, builder.add(neuron, right), values, low, threshold)
                    bit = x % WIDE + (NARROW * (y % 2) if lanes <= NARROW else 0)
                    place = (y - y % 2, 0) if lanes <= NARROW else (y, x - x % WIDE)
                    fired = vectors.mask(fired, bit)
                    masks[place] = builder.or_(masks[place], fired) if place in masks else fired

            def append_all(m):  # type: ignore[no-untyped-def]
                for (y, x), mask in masks.items():
                    beyond = builder.add(builder.mul(ir.Constant(row.type, y), row), ir.Constant(row.type, x))
                    m = _append(builder, pairs, m, mask, builder.add(first, beyond))
                return m

            if not seldom:
                return append_all(m)
            any_fired = reduce(builder.or_, masks.values())
            before = builder.block
            with builder.if_then(builder.icmp_unsigned("!=", any_fired, _word(0)), likely=False):
                more, within = append_all(m), builder.block
            merged = builder.phi(m.type)
            merged.add_incoming(m, before)
            merged.add_incoming(more, within)
            return merged

        return signature, generate

    return step


def _any(lanes: int, exact: bool) -> Any:
    """The step of one input event with any window, in vectors of so many lanes.

    As that of :func:`fixed`; for the exact step, the neurons' own thresholds lie from ``own`` on in ``thresholds``, and
    half a vector may be left at the end of a row.
    """

    @intrinsic
    def step(typing_context, v, weight, thresholds, own, at, w, window, bounds, masks, first, m):  # type: ignore[no-untyped-def]
        integer = types.intp
        signature = integer(
            v, weight, thresholds, integer, integer, integer, window, bounds, masks, types.int64, integer
        )

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            v, weight, thresholds, own, at, w, window, bounds, masks, first, m = args
            v, weight, thresholds = (_data(context, builder, signature.args[i], args[i]) for i in range(3))
            row, lead, rows, many_lanes = cgutils.unpack_tuple(builder, window)
            low, threshold, keep = cgutils.unpack_tuple(builder, bounds)
            pairs, saturations = (
                _data(context, builder, *each)
                for each in zip(signature.args[8], cgutils.unpack_tuple(builder, masks), strict=True)
            )
            filled = cgutils.alloca_once_value(builder, m)

            def piece(n, down, right):  # type: ignore[no-untyped-def]
                vectors, beyond = _Vectors(context, builder, n), builder.add(builder.mul(down, row), right)
                neuron = builder.add(at, beyond)
                values = vectors.load(weight, builder.add(builder.add(w, builder.mul(down, lead)), right))
                if exact:
                    each = vectors.load(thresholds, builder.add(own, neuron))
                    fired, saturated = vectors.exact_step(v, neuron, values, low, each, keep)
                    more = builder.ctpop(vectors.mask(saturated))
                    builder.store(builder.add(builder.load(saturations), more), saturations)
                else:
                    fired = vectors.step(v, neuron, values, low, threshold)
                event = builder.add(first, beyond)
                new = _append(builder, pairs, builder.load(filled), vectors.mask(fired), event)
                builder.store(new, filled)

            size = ir.Constant(many_lanes.type, lanes)
            many = builder.sdiv(many_lanes, size)
            with cgutils.for_range(builder, rows) as y:
                with cgutils.for_range(builder, many) as x:
                    piece(lanes, y.index, builder.mul(x.index, size))
                if exact:
                    done = builder.mul(many, size)
                    with builder.if_then(builder.icmp_signed("<", done, many_lanes), likely=False):
                        piece(lanes // 2, y.index, done)
            return builder.load(filled)

        return signature, generate

    return step


wide, exact = _any(WIDE, False), _any(NARROW, True)


class Resident(types.Type):
    """The states of a layer as a value, in the compiled loops."""

    def __init__(self, lanes: int) -> None:
        super().__init__(name=f"Resident({lanes})")
        self.lanes = lanes


@register_model(Resident)
class _ResidentModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Resident) -> None:
        super().__init__(manager, kind, ir.VectorType(_half, kind.lanes))


def resident(lanes: int) -> tuple[Any, Any, Any]:
    """To take the first ``lanes`` states of an array as a value; the step of such a value, as that of :func:`fixed`
    in all else; to write it back."""
    kind = Resident(lanes)

    @intrinsic
    def taken(typing_context, v, at):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            data = _data(context, builder, signature.args[0], args[0])
            return _Vectors(context, builder, lanes).load(data, args[1])

        return kind(v, types.intp), generate

    @intrinsic
    def step(typing_context, state, weight, w, bounds, pairs, first, m):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            state, weight, w, bounds, pairs, first, m = args
            weight = _data(context, builder, signature.args[1], weight)
            pairs = _data(context, builder, signature.args[4], pairs)
            low, threshold, _ = cgutils.unpack_tuple(builder, bounds)
            vectors = _Vectors(context, builder, lanes)
            state, fired = vectors.resident_step(state, vectors.load(weight, w), low, threshold)
            m = _append(builder, pairs, m, vectors.mask(fired), first)
            return context.make_tuple(builder, signature.return_type, [state, m])

        returned = types.Tuple([kind, types.intp])
        return returned(state, weight, types.intp, bounds, pairs, types.int64, types.intp), generate

    @intrinsic
    def kept(typing_context, state, v, at):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            data = _data(context, builder, signature.args[1], args[1])
            _Vectors(context, builder, lanes).store(args[0], data, args[2])
            return context.get_dummy_value()

        return types.none(state, v, types.intp), generate

    return taken, step, kept


@intrinsic
def borrowed(typing_context, values):  # type: ignore[no-untyped-def]
    """An array, or a named tuple of arrays, whose references are not counted from here on.

    numba counts those of every array of a tuple, atomically, wherever the tuple is an argument; in a loop over events
    that would be most of the work. The caller has to hold the arrays for as long as what is borrowed is used.
    """

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return _without_owner(context, builder, signature.args[0], args[0])

    return values(values), generate


def _without_owner(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.BaseTuple):
        kinds: Any = kind
        parts = [_without_owner(context, builder, k, builder.extract_value(value, i)) for i, k in enumerate(kinds)]
        return context.make_tuple(builder, kind, parts)
    if not isinstance(kind, types.Array):
        return value
    array = context.make_array(kind)(context, builder, value)
    array.meminfo, array.parent = (cgutils.get_null_value(part.type) for part in (array.meminfo, array.parent))
    return array._getvalue()


@intrinsic
def apart(typing_context):  # type: ignore[no-untyped-def]
    """Keep the function that calls it apart from its own callers: in a large function, LLVM leaves in memory what a
    small loop counts."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), generate
