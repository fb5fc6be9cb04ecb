"""SynSense Speck: events one by one through integer neurons, no time bins. The simulator, or a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from cil_spl.base import ranks
from cil_spl.base.annotations import Keys, shown
from cil_spl.base.errors import RequestError
from cil_spl.base.process import Threads
from cil_spl.chip import bounds
from cil_spl.chip.die import Die, die_of
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.placement import place, place_network
from cil_spl.chip.quantize import check_net, quantize
from cil_spl.chip.rounding import CHIP, Precision
from cil_spl.chip.simulator import ChipAnswer, simulate
from cil_spl.data.batches import Batch, Batches
from cil_spl.models.net import Net
from cil_spl.models.plan import Plan
from cil_spl.targets import board
from cil_spl.targets.target import Asked, TargetNetwork
from cil_spl.tasks import evaluation as ev

if TYPE_CHECKING:
    from cil_spl.targets.devkit import Board


class Speck:
    """A Speck 2e/2f.

    Args:
        backend: ``auto`` takes a connected board and otherwise the simulator; ``simulator``; ``device``.
            A board is taken at once and held until :meth:`close`.
        die: deviations from the ideal chip (see :class:`cil_spl.chip.die.Die`); None for the ideal chip.
        threads: of the simulator.
        max_synops_per_second: rate of a core above which to warn. The vendor publishes no figure; None for no warning.
        device, start_delay_us, quiet_us, max_wait_us: of the board (see :class:`cil_spl.targets.devkit.Board`).
        monitor: layers whose events the board sends back: ``readout`` or ``all``.
        repeats: how often each recording is sent to the board.

    Raises:
        RequestError: ``device`` without a board or without the real samna; a wrong setting of the die; what only the
            other back end has.
    """

    family: Literal["snn", "cnn"] = "snn"
    takes = ("events",)
    as_trained = False

    def __init__(
        self,
        *,
        name: str = "speck",
        backend: Literal["auto", "simulator", "device"] = "auto",
        die: Annotated[Mapping[str, Any] | None, Keys(Die)] = None,
        threads: Threads | None = None,
        max_synops_per_second: Annotated[float, Gt(0)] | None = None,
        device: str | None = None,
        monitor: Literal["readout", "all"] = "readout",
        repeats: Annotated[int, Ge(1), Le(1000)] = 1,
        start_delay_us: Annotated[int, Ge(0), Le(60_000_000)] = 100_000,
        quiet_us: Annotated[int, Ge(1), Le(60_000_000)] = 20_000,
        max_wait_us: Annotated[int, Ge(1), Le(600_000_000)] = 2_000_000,
    ) -> None:
        self.name = name
        self.backend = board.choose(backend, simulated=bool(die))
        self.threads, self.max_synops_per_second = threads, max_synops_per_second
        self.die = die_of(die, "target.die")
        self._asked, self._named = backend, device
        self.monitor, self.repeats = monitor, repeats
        self.board: Board | None = None
        self._held: ChipNetwork | None = None
        if self.backend == "device":
            from cil_spl.targets.devkit import Board

            if self.die is not None:
                raise RequestError(
                    f"target.die={shown(die)}: a board is its own die; use target.backend=simulator, or no die"
                )
            self.board = Board(device, start_delay_us=start_delay_us, quiet_us=quiet_us, max_wait_us=max_wait_us)
        elif repeats > 1:
            raise RequestError(
                f"target.repeats={repeats}: the simulator gives the same answer each time; use 1, or "
                "target.backend=device"
            )

    def close(self) -> None:
        """Give the board back, if there is one."""
        if self.board is not None:
            self.board.close()

    def check(self, plan: Plan, requires: Asked) -> list[str]:
        """Place the plan on cores before a weight exists; warnings of the placement.

        Raises:
            RequestError: neurons that the chip has not, or that its rule cannot round; what a board cannot do in the
                loop, or for several ranks; a plan that does not fit, naming layer, need and the nearest core; a setting
                of the die for a layer that there is not.
        """
        if requires.net is not None:
            check_net(requires.net)
        elif requires.neuron["kind"] != "iaf":
            raise RequestError(
                f"model.neuron.kind={requires.neuron['kind']}: target={self.name} has integrate-and-fire neurons only "
                "(the chip has no multiplicative leak); use model.neuron.kind=iaf, or target=software"
            )
        if requires.net is None:
            bounds.check_neurons(requires.neuron, requires.init_rate)
        if self.backend == "device":
            self._check_board(requires.observer)
        return self.place(plan)

    def _check_board(self, observer: Mapping[str, Any] | None) -> None:
        if ranks.count() > 1:
            raise RequestError(
                f"target.backend={self.backend}: {ranks.count()} ranks cannot share one board; use one process, or "
                "target.backend=simulator"
            )
        if observer is None:
            return
        if observer["v_mem"]:
            raise RequestError("observer.v_mem=true: a board does not tell its states; use observer.v_mem=false")
        if observer["layers"] == "all" and self.monitor != "all":
            raise RequestError(
                f"target.monitor={self.monitor}: observer.layers=all needs every layer's events of the board; "
                "use target.monitor=all, or observer.layers=output"
            )

    def place(self, plan: Plan) -> list[str]:
        """Choose a core for each layer of a plan; warnings for the user.

        Raises:
            RequestError: it does not fit, or the die has a setting for a layer that there is not. A board is named, but
                the simulator answers.
        """
        if self._named is not None and self.backend != "device":
            why = (
                "no board was found, so the simulator answers" if self._asked == "auto" else "the simulator has no name"
            )
            raise RequestError(
                f"target.device={self._named}: target.backend={self._asked}, and {why}; use target.device=null, or "
                "target.backend=device with the board connected"
            )
        self.placement = place(plan)
        if self.die:
            self.die.check_layers([need.name for need in self.placement.needs])
        return list(self.placement.warnings)

    def quantize(self, net: Net, precision: Precision = CHIP, calibration: Batches | None = None) -> TargetNetwork:
        """By the chip's rule, each layer on its core."""
        chip, warnings = quantize(net, precision)
        return TargetNetwork(net, place_network(chip), warnings=tuple(warnings))

    def answer(self, network: TargetNetwork) -> ev.Answer:
        """On the simulator, or on the board, which is configured for the network."""
        chip = self._chip_of(network)
        if self.board is None:
            return partial(self._simulated, chip)
        self._board_with(chip)
        return partial(self._on_board, chip)

    def _chip_of(self, network: TargetNetwork) -> ChipNetwork:
        if network.chip is None:
            raise RequestError(f"target={self.name}: there is no chip network to run; a run leaves it as chip.npz")
        return network.chip

    def _board_with(self, chip: ChipNetwork) -> Board:
        """The board, configured for ``chip`` (again only where it held another)."""
        assert self.board is not None
        if self._held is not chip:
            self.board.load(chip, self.monitor)
            self._held = chip
        return self.board

    def _on_board(self, chip: ChipNetwork, batch: Batch) -> ev.Activity:
        """Run a batch of recordings on the board, each ``repeats`` times; counts are means.

        Besides, for a recording: ``board_sent``, ``board_received``, ``board_stray``, ``board_late`` and
        ``board_unfinished`` (see :class:`cil_spl.targets.devkit.Traffic`); ``board_lost``, events of monitored layers
        that the ideal chip has and the board did not return, and ``board_surplus``, the other way round. With repeats:
        ``repeat_spread``, the standard deviation of a class's count over them, mean over classes; ``repeat_same``, 1
        where all decide alike.
        """
        board = self._board_with(chip)
        events_in, offsets, edges_us = batch.recorded()
        told = [board.send(events_in, offsets, edges_us) for _ in range(self.repeats)]
        answers = [answer for answer, _ in told]
        names = [layer.name for layer in chip.layers]
        events, synops = (
            np.mean([getattr(a, what) for a in answers], axis=0) for what in ("events_per_layer", "synops")
        )
        counts = np.array([a.counts for a in answers], np.float64)  # R B T K
        extra = {
            f"board_{f.name}": np.mean([getattr(traffic, f.name) for _, traffic in told], axis=0)
            for f in fields(told[0][1])
        }
        monitored = list(board.monitored)
        ideal = simulate(chip, events_in, offsets, threads=self.threads).events_per_layer[:, monitored]
        missing = np.array([ideal - a.events_per_layer[:, monitored] for a in answers])  # R B L
        extra["board_lost"] = np.maximum(missing, 0).sum(axis=2).mean(axis=0)
        extra["board_surplus"] = np.maximum(-missing, 0).sum(axis=2).mean(axis=0)
        if self.repeats > 1:
            totals = counts.sum(axis=2)  # R B T K -> R B K
            extra["repeat_spread"] = totals.std(axis=0, ddof=1).mean(axis=1)
            decided = np.where(
                (totals == totals.max(axis=2, keepdims=True)).sum(axis=2) == 1, totals.argmax(axis=2), -1
            )
            extra["repeat_same"] = (decided == decided[0]).all(axis=0).astype(np.float64)
        at = np.array([a.decision_us for a in answers])  # R B
        n_decided = np.maximum((at >= 0).sum(axis=0), 1)
        return ev.Activity(
            counts=counts.mean(axis=0),
            events={name: events[:, i] for i, name in enumerate(names)},
            synops={name: synops[:, i] for i, name in enumerate(names)},
            decision_us=np.where((at >= 0).any(axis=0), np.where(at >= 0, at, 0).sum(axis=0) // n_decided, -1),
            extra=extra,
        )

    def send(
        self, chip: ChipNetwork, batch: Batch, *, record: Sequence[str] = (), die: Die | None = None
    ) -> ChipAnswer:
        """What a chip answers to a batch; see :func:`cil_spl.chip.simulator.simulate`.

        Raises:
            RequestError: on a board, a die or what it cannot record.
        """
        events, offsets, edges_us = batch.recorded()
        if self.board is not None:
            if die is not None:
                raise RequestError("observer.die: a board is its own die; use observer.die=null")
            answer, _ = self._board_with(chip).send(events, offsets, edges_us, record=record)
            return answer
        return simulate(chip, events, offsets, edges_us, record=record, die=die, threads=self.threads)

    def _simulated(self, chip: ChipNetwork, batch: Batch) -> ev.Activity:
        """Run a batch of recordings; the states are zero before each."""
        a = self.send(chip, batch, die=self.die)
        names = [layer.name for layer in chip.layers]
        return ev.Activity(
            counts=a.counts.astype(np.float64),
            events={name: a.events_per_layer[:, i] for i, name in enumerate(names)},
            synops={name: a.synops[:, i] for i, name in enumerate(names)},
            decision_us=a.decision_us,
            saturations={name: a.saturations[:, i] for i, name in enumerate(names)},
            dropped={name: a.dropped[:, i] for i, name in enumerate(names)} if a.dropped.any() else None,
        )

    def figures(self, network: TargetNetwork) -> dict[str, float]:
        """Weights, and memory that the placed network takes: entries of its cores, by layer and in all."""
        found = {"parameters": float(sum(layer.weight.size for layer in self._chip_of(network).layers))}
        for what in ("kernel_entries", "neuron_entries"):
            by_layer = {need.name: float(getattr(need, what)) for need in self.placement.needs}
            found |= {what: sum(by_layer.values())} | {f"{what}/{name}": value for name, value in by_layer.items()}
        cores = zip(self.placement.needs, self.placement.cores, strict=True)
        return found | {f"core/{need.name}": float(core) for need, core in cores}

    def judge(self, metrics: Mapping[str, float]) -> list[str]:
        """Warnings about cores that would work faster than the chip can, or that dropped events on the given die, and
        about events that a board did not take or return as it should; ``metrics`` are those of an evaluation."""
        limit = self.max_synops_per_second
        rates = {k.rpartition("/")[2]: v for k, v in metrics.items() if k.startswith("synops_per_second/")}
        dropped = {k.rpartition("/")[2]: v for k, v in metrics.items() if k.startswith("dropped/") and v > 0}
        found = self._judge_board(metrics)
        found += [
            f"layer {name}: the congestion balancer dropped {n:.3g} events per recording (target.die.fifo)"
            for name, n in dropped.items()
        ]
        found += [
            f"layer {name}: {rate:.3g} synaptic operations per second on its core, above "
            f"target.max_synops_per_second={limit:g}; there the chip stalls or drops events. Use fewer features, or "
            "pool earlier"
            for name, rate in rates.items()
            if limit is not None and rate > limit
        ]
        return found

    def _judge_board(self, metrics: Mapping[str, float]) -> list[str]:
        share = {
            name: metrics.get(f"board_{name}", 0.0) for name in ("late", "unfinished", "stray", "lost", "received")
        }
        found = []
        if share["late"]:
            found.append(
                f"{share['late']:.1%} of the recordings were still being written when their first event was due, so it "
                "came in a burst; raise target.start_delay_us"
            )
        if share["unfinished"]:
            found.append(
                f"{share['unfinished']:.1%} of the recordings were still being answered when the wait was over; "
                "raise target.max_wait_us"
            )
        if share["stray"]:
            found.append(
                f"{share['stray']:.3g} events per recording came from the board that belong to no neuron or time in it"
            )
        if share["lost"] > 0.05 * (share["received"] + share["lost"]):
            found.append(
                f"the board returned {share['received']:.4g} events per recording, {share['lost']:.4g} fewer than the "
                "ideal chip; lost on the way, or a chip that differs"
            )
        return found

    def output_events(self, network: TargetNetwork, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Times (microseconds) and numbers of one recording's output events."""
        a = self.send(self._chip_of(network), batch, record=("output",), die=self.die)
        assert a.output is not None
        return a.output.t, a.output.k
