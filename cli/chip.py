"""``cilspl chip``: hold the simulated chip against what a real one answered; show where layers go."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl chip", description="The simulated chip, and what is known of the real one."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verify = verbs.add_parser("verify", help="replay a real chip's recordings and compare, neuron by neuron")
    verify.add_argument("folder", help="holds cnn_sinabs.nir and layer1_spike_counts.npz")
    verify.add_argument("recordings", help="the recordings that the chip was sent, in the official N-MNIST layout")
    verify.add_argument("--rules", action="store_true", help="what every other rule would give as well (half a minute)")
    show = verbs.add_parser("show", help="the layers of a chip network, and what their cores hold")
    show.add_argument("run", help="a run, or a chip network's file")
    given = parser.parse_args(argv)
    if given.verb == "show":
        return _show(given.run)

    from cil_spl.chip import silicon

    real = silicon.load(given.folder, given.recordings)
    print(_table(silicon.replay(real.network(), real).table()))
    if given.rules:
        print()
        print(_table(silicon.rows_of(silicon.alternatives(real))))
    return 0


def _show(name: str) -> int:
    from pathlib import Path

    from cil_spl import runs
    from cil_spl.chip import interchange, placement

    path = Path(name) if Path(name).is_file() else runs.find(name).path("chip.npz")
    network = interchange.load(path)
    print(placement.assign([placement.need_of(layer) for layer in network.layers], str(path)))
    return 0


def _table(rows: Sequence[Mapping[str, str | int | float]]) -> str:
    """Columns of text, fractions as per cent."""
    texts = [[f"{100 * v:.2f} %" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [list(rows[0]), *texts]
    wide = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, wide, strict=True))
        )
        for line in lines
    )
