"""Bits of 64-bit words in compiled functions: which of so many neurons fired, which of so many numbers are not zero."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def lowest_bit(typing_context, mask):  # type: ignore[no-untyped-def]
    """Number of the lowest bit of a mask, 64 if it is zero."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.intp(types.uint64), generate


@intrinsic
def bits(typing_context, mask):  # type: ignore[no-untyped-def]
    """How many bits of a mask are set."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.intp(types.uint64), generate
