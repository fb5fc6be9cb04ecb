"""``cilspl chip`` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from cil_spl.chip import nirfile
from cil_spl.chip.interchange import save
from cil_spl.chip.network import ChipLayer, ChipNetwork
from cil_spl.cli import main


def test_verify_prints_the_agreement_with_the_real_chip(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chip", "verify", str(shared / "data/speck2f"), str(shared / "data/NMNIST")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    exact = next(line for line in lines if "Test/1/" in line)
    assert exact.split()[-4:] == ["0.00", "%", "100.00", "%"]
    total = lines[-1].split()
    assert float(total[3]) <= 1.0
    assert float(total[5]) > 97


def test_show_prints_what_the_cores_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = ChipLayer("out", np.ones((3, 2, 4, 4), np.int8), (1, 1), (0, 0), (2, 4, 4), 10, -10)
    save(ChipNetwork((layer,), (2, 4, 4)), tmp_path / "chip.npz")
    assert main(["chip", "show", str(tmp_path / "chip.npz")]) == 0
    assert "2 -> 3, 4 x 4" in capsys.readouterr().out


def test_missing_answers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chip", "verify", str(tmp_path), str(tmp_path)]) == 2
    assert "cnn_sinabs.nir: no such file" in capsys.readouterr().err


def test_show_takes_a_nir_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = ChipLayer("out", np.full((3, 2, 4, 4), 127, np.int8), (1, 1), (0, 0), (2, 4, 4), 10, -10, scale=10.0)
    nirfile.write(ChipNetwork((layer,), (2, 4, 4)), tmp_path / "a.nir")
    assert main(["chip", "show", str(tmp_path / "a.nir")]) == 0
    assert "2 -> 3, 4 x 4" in capsys.readouterr().out
    (tmp_path / "a.nir").write_bytes((tmp_path / "a.nir").read_bytes()[:1000])
    assert main(["chip", "show", str(tmp_path / "a.nir")]) == 2
    assert "a.nir: not a NIR file, or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage", ["counts cut", "network cut", "counts of another network", "a weight is not a number"]
)
def test_verify_of_damaged_answers_is_one_line(
    damage: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cnn_sinabs.nir", "layer1_spike_counts.npz"):
        (tmp_path / name).write_bytes((shared / "data" / "speck2f" / name).read_bytes())
    if damage == "counts cut":
        (tmp_path / "layer1_spike_counts.npz").write_bytes(bytes(100))
    elif damage == "network cut":
        (tmp_path / "cnn_sinabs.nir").write_bytes((tmp_path / "cnn_sinabs.nir").read_bytes()[:5000])
    elif damage == "counts of another network":
        np.savez(tmp_path / "layer1_spike_counts.npz", recording=["a"], counts=np.ones((1, 2, 3, 4), int))
    else:
        with h5py.File(tmp_path / "cnn_sinabs.nir", "r+") as file:
            file["node/nodes/11/weight"][3, 3] = np.nan
    assert main(["chip", "verify", str(tmp_path), str(shared / "data" / "NMNIST")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert ("cnn_sinabs.nir: " if "network cut" in damage or "weight" in damage else "counts.npz: ") in said
    assert ("node 11 (Affine): a weight is not a finite number" in said) == ("weight" in damage)


# mismatch


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run on the middle of the embedded digits."""
    from cil_spl import pipeline
    from cil_spl.cli.compose import composed

    layers = "model.layers=[{conv: 4, kernel: 3, padding: 1, pool: 2}, {linear: classes}]"
    small = ["method=bptt", "trainer.epochs=1", "trainer.limit_batches=4", "frames.bins=3", "tracking.enabled=false"]
    folder = tmp_path_factory.mktemp("runs") / "small"
    pipeline.run(composed([*small, layers, "dataset.preprocess.crop=[8, 8, 17, 17]"]), folder)
    return folder


def test_mismatch_prints_and_writes_where_steps_and_chip_part(cilspl, trained: Path) -> None:
    said = cilspl("chip", "mismatch", str(trained), "bins=1,20", "simulator_seed=0", "--recordings", "12")
    assert said.code == 0, said.err
    assert "12 validation recordings" in said.out
    assert max(len(line) for line in said.out.splitlines() if "/" not in line) <= 80
    order = next(line for line in said.out.splitlines() if line.startswith("order ")).split()
    assert order[2:5] == ["0.00", "+0.00", "100.00"]
    assert [line.split()[0] for line in said.out.splitlines() if line.split()[:1] and line.split()[0].isdigit()] == [
        "1",
        "20",
        "1",
        "20",
    ]
    made = {path.name for path in (trained / "figures").glob("mismatch*")}
    assert made == {"mismatch.png", "mismatch_bins.csv", "mismatch_budget.csv"}


def test_mismatch_on_the_test_set_goes_where_it_is_told(cilspl, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "there"
    said = cilspl("chip", "mismatch", str(trained), "bins=2", "--test", "--recordings", "5", "--out", str(out))
    assert said.code == 0, said.err
    assert "5 test recordings" in said.out
    assert len((out / "mismatch_bins.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["bins=0"], "bins=0: needs whole numbers from 1"),
        (["bins=1,x"], "bins=1,x: needs whole numbers from 1"),
        (["bins="], "bins=: needs whole numbers from 1"),
        (["ten"], "ten: needs the form KEY=VALUE"),
        (["rot=DIR"], "dataset.rot=DIR: the run's dataset has no such key; allowed are "),
        (["test_dataset.root=DIR"], "test_dataset.root=DIR: the run's test_dataset has no such key; allowed are none"),
        (["--recordings", "0"], "--recordings 0: needs at least 1"),
        (["--seed", "-1"], "--seed -1: needs at least 0"),
    ],
)
def test_a_wrong_mismatch(cilspl, trained: Path, words: list[str], piece: str) -> None:
    said = cilspl("chip", "mismatch", str(trained), *words)
    assert said.code == 2
    assert piece in said.err
    assert "Traceback" not in said.err


def test_mismatch_of_no_run(cilspl, here: Path) -> None:
    said = cilspl("chip", "mismatch", "runs/nope")
    assert said.code == 2
    assert "runs/nope" in said.err


def test_mismatch_of_a_run_that_has_no_spikes(cilspl, here: Path, pipeline) -> None:
    said = cilspl("run", "method=conversion", "target=accelerator", "hydra.run.dir=cnn", "tracking.enabled=false")
    assert said.code == 0, said.err
    said = cilspl("chip", "mismatch", "cnn")
    assert said.code == 2
    assert "leaves no chip network; ask a run on target=speck" in said.err
