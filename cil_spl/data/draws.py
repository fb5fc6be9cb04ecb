"""numpy's random numbers inside compiled code: the same stream as ``np.random.default_rng`` gives for the same seeds.

A generator made in Python for each recording costs more than all that is done with its numbers. Here are the parts of
numpy that the augmentation needs: SeedSequence, PCG64, and of Generator ``random``, ``uniform`` and small ``integers``.
A test holds each of them against numpy.

Sources: M. E. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
Generation", 2014; D. Lemire, "Fast Random Integer Generation in an Interval", 2019; numpy's documentation.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
STATE = 6  # words of a generator: state, increment (high and low), a kept half of a word, whether it is there
_M = np.uint64(0xFFFFFFFF)


@intrinsic
def _step(typing_context, state):  # type: ignore[no-untyped-def]
    """The next 64 random bits of PCG64 (XSL-RR)."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        wide, word = ir.IntType(128), ir.IntType(64)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data

        def at(k):  # type: ignore[no-untyped-def]
            return cgutils.gep(builder, data, k)

        def load(k):  # type: ignore[no-untyped-def]
            high = builder.shl(builder.zext(builder.load(at(k)), wide), wide(64))
            return builder.or_(high, builder.zext(builder.load(at(k + 1)), wide))

        new = builder.add(builder.mul(load(0), wide(MULTIPLIER)), load(2))
        high, low = builder.trunc(builder.lshr(new, wide(64)), word), builder.trunc(new, word)
        builder.store(high, at(0))
        builder.store(low, at(1))
        turn = builder.lshr(high, word(58))
        value = builder.xor(high, low)
        back = builder.and_(builder.sub(word(64), turn), word(63))
        return builder.or_(builder.lshr(value, turn), builder.shl(value, back))

    return types.uint64(state), generate


@njit(nogil=True)
def _mixed(value, constant):  # type: ignore[no-untyped-def]
    """A word and the next constant of SeedSequence's hash; 32-bit arithmetic in 64 bits."""
    value = (value ^ constant) & _M
    constant = (constant * np.uint64(0x931E8875)) & _M
    value = (value * constant) & _M
    return value ^ (value >> np.uint64(16)), constant


@njit(nogil=True)
def _joined(x, y):  # type: ignore[no-untyped-def]
    value = (x * np.uint64(0xCA01F9DD) - y * np.uint64(0x4973F715)) & _M
    return value ^ (value >> np.uint64(16))


@njit(nogil=True)
def seeded(words, state):  # type: ignore[no-untyped-def]
    """Begin the stream of ``PCG64(SeedSequence(...))``, whose entropy and spawn key are these words of 32 bits."""
    pool, constant = np.zeros(4, np.uint64), np.uint64(0x43B0D7E5)
    for i in range(4):
        pool[i], constant = _mixed(words[i] if i < len(words) else np.uint64(0), constant)
    for source in range(4):
        for to in range(4):
            if source != to:
                value, constant = _mixed(pool[source], constant)
                pool[to] = _joined(pool[to], value)
    for source in range(4, len(words)):
        for to in range(4):
            value, constant = _mixed(words[source], constant)
            pool[to] = _joined(pool[to], value)
    drawn, constant = np.zeros(4, np.uint64), np.uint64(0x8B51F9DD)
    for i in range(8):
        value = (pool[i % 4] ^ constant) & _M
        constant = (constant * np.uint64(0x58F38DED)) & _M
        value = (value * constant) & _M
        value ^= value >> np.uint64(16)
        drawn[i // 2] |= value << np.uint64(32 * (i % 2))
    state[:2] = 0
    state[2] = (drawn[2] << np.uint64(1)) | (drawn[3] >> np.uint64(63))
    state[3] = (drawn[3] << np.uint64(1)) | np.uint64(1)
    state[4:] = 0
    _step(state)
    low = state[1] + drawn[1]
    state[0] += drawn[0] + (np.uint64(1) if low < drawn[1] else np.uint64(0))
    state[1] = low
    _step(state)


@njit(nogil=True)
def random(state):  # type: ignore[no-untyped-def]
    """A number from [0, 1)."""
    return np.float64(_step(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(nogil=True)
def _half(state):  # type: ignore[no-untyped-def]
    """32 random bits; a word gives them twice."""
    if state[5]:
        state[5] = 0
        return state[4]
    word = _step(state)
    state[4], state[5] = word >> np.uint64(32), np.uint64(1)
    return word & _M


@njit(nogil=True)
def integer(state, low, high):  # type: ignore[no-untyped-def]
    """A whole number from ``low`` to ``high``, both among them; they are less than 2^32 apart."""
    if low == high:
        return low
    many = np.uint64(high - low + 1)
    product = _half(state) * many
    if product & _M < many:
        least = (_M - (many - np.uint64(1))) % many
        while product & _M < least:
            product = _half(state) * many
    return low + np.int64(product >> np.uint64(32))
