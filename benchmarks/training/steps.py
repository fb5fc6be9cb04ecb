"""Part ``steps``: a step of BPTT by this project, by bare convolutions and by its peers."""

from __future__ import annotations

from typing import Any

import recorded
import sides
import turns
from turns import Options, Times, judged, shown, told

from cil_spl.base import process

# Of the fastest peer's time, how many times ours, by bins; and the floor's.
FASTER = {1: 2.5, 4: 2.5}
FASTER_ELSE, SINABS_AT_100 = 3.0, 25.0
OVER_FLOOR, OVER_FLOOR_AT_1 = 1.0, 1.2


def measure(options: Options) -> list[tuple[str, list[dict[str, Any]]]]:
    """Tables of times, one for each input and number of threads, and the table of aims."""
    tables, aims = [], []
    inputs = ["random"] if options.quick else ["random", options.data]
    for threads in options.threads:
        process.set_threads(threads)
        for what in inputs:
            found: dict[int, Times] = {}
            for bins in options.bins:
                told(f"steps: {what}, {bins} bins, {threads} thread(s)")
                found[bins] = one(what, bins, threads, options)
                aims += [
                    row | {"what": f"{what}, {threads} thread(s): {row['what']}"} for row in rows(bins, found[bins])
                ]
            tables.append((f"{what} input, {threads} thread(s), ms", by_side(found)))
    return [*tables, ("aim of a step", aims)]


def one(what: str, bins: int, threads: int, options: Options) -> Times:
    """Times of all sides on one input."""
    if what == "random":
        problem = sides.random_problem(bins, options.batch)
    else:
        batch = next(recorded.setting(options, bins, threads).batches().epoch(0))
        problem = sides.Problem(sides.network(batch.frames), batch)
    names = sides.all_sides(compiled=bins <= options.compiled)
    return turns.taken(
        {name: sides.make_side(name, problem) for name in names}, options.repeats, turns.clock_of(threads)
    )


def by_side(found: dict[int, Times]) -> list[dict[str, Any]]:
    """A row for each side, a column for each number of bins: minimum and median."""
    names = list(dict.fromkeys(name for times in found.values() for name in times))
    return [
        {"side": name} | {f"{bins} bins": shown(times[name]) if name in times else "" for bins, times in found.items()}
        for name in names
    ]


def rows(bins: int, times: Times) -> list[dict[str, Any]]:
    """The aims at so many bins."""
    least = {name: min(values) for name, values in times.items()}
    ours = least[sides.OURS]
    floor_aim = OVER_FLOOR_AT_1 if bins == 1 else OVER_FLOOR
    found = [judged(f"{bins} bins, over the floor", ours / least[sides.FLOOR], floor_aim)]
    others = {name: value for name, value in least.items() if name not in (sides.OURS, sides.FLOOR, sides.FLOOR_NCHW)}
    for kind, some in (
        ("fastest peer", {n: v for n, v in others.items() if not n.endswith("compiled")}),
        ("fastest peer, compiled", {n: v for n, v in others.items() if n.endswith("compiled")}),
    ):
        if some:
            fastest = min(some, key=lambda name: some[name])
            what = f"{bins} bins, {kind} ({fastest.removesuffix(', compiled')}) over ours"
            found.append(judged(what, some[fastest] / ours, FASTER.get(bins, FASTER_ELSE), at_least=True))
    if bins == 100 and "sinabs" in least:
        found.append(judged("100 bins, sinabs over ours", least["sinabs"] / ours, SINABS_AT_100, at_least=True))
    return found
