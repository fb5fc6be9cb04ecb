"""The network of a run answers as the deployed one did."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cil_spl import load, pipeline
from cil_spl.base.errors import RequestError
from cil_spl.base.files import write_json
from cil_spl.chip.interchange import load as load_chip
from cil_spl.chip.interchange import save
from cil_spl.cli.compose import composed
from cil_spl.data import datasets
from cil_spl.data.events import EVENT
from cil_spl.results import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two batches on the embedded data."""
    folder = tmp_path_factory.mktemp("run")
    small = ["trainer.epochs=1", "trainer.limit_batches=2", "tracking.enabled=false"]
    pipeline.run(composed(small), folder)
    return runs.read(folder)


def test_it_scores_what_the_run_scored(run):
    network = load.load(run)
    test = datasets.load(network.config.dataset, None, seed=network.config.seed)[0].test
    right = sum(network.predict(test[i]).decision == test.target[i] for i in range(len(test)))
    assert right / len(test) == pytest.approx(run.info["row"]["deployed/accuracy"], abs=1e-12)


def test_what_it_says(run):
    network = load.load(run)
    silent = network.predict(np.array([(1, 1, 5, 1)], EVENT))
    assert (silent.decision, silent.label, silent.decision_us) == (-1, "none (no output event)", None)
    assert silent.counts.tolist() == [0] * 10
    assert network.classes == tuple("0123456789")
    with pytest.raises(RequestError, match="event 0 has x=40"):
        network.predict(np.array([(40, 1, 5, 1)], EVENT))


def test_a_run_of_a_gpu_is_asked_without_one(run, monkeypatch):
    config = run.config()
    config.trainer.device = "cuda:1"
    monkeypatch.setattr(runs.Run, "config", lambda self: config)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert load.load(run).predict(np.array([(1, 1, 5, 1)], EVENT)).decision == -1


def test_names_of_classes_come_from_the_run(run, tmp_path):
    with (tmp_path / "confusion.csv").open("w", newline="") as file:
        csv.writer(file).writerow(["class", "cat", "dog", "none"])
    write_json(tmp_path / "run.json", {**run.info, "files": {}})
    assert load._classes(runs.read(tmp_path), 2) == ("cat", "dog")


def test_a_run_without_a_network(run, tmp_path):
    write_json(tmp_path / "run.json", {**run.info, "status": "failed"})
    with pytest.raises(RequestError, match="the run is failed"):
        load.load(runs.read(tmp_path))
    write_json(tmp_path / "run.json", run.info)
    (tmp_path / "config.yaml").write_text(run.path("config.yaml").read_text())
    with pytest.raises(RequestError, match=r"left no weights.pt"):
        load.load(runs.read(tmp_path))
    (tmp_path / "weights.pt").write_bytes(b"torn")
    with pytest.raises(RequestError, match=r"weights.pt: not as the run left it"):
        load.load(runs.read(tmp_path))
    write_json(tmp_path / "run.json", {**run.info, "files": {}})
    with pytest.raises(RequestError, match=r"weights.pt: not a checkpoint"):
        load.load(runs.read(tmp_path))


def test_a_network_that_the_run_did_not_write_is_not_asked(run, tmp_path):
    """A whole chip network with a checksum of its own, but of another run; and settings that were edited."""
    folder = shutil.copytree(run.folder, tmp_path / "run")
    chip = load_chip(folder / "chip.npz")
    chip.layers[0].weight[0] += 1
    save(chip, folder / "chip.npz")
    with pytest.raises(RequestError, match=r"chip\.npz: not as the run left it"):
        load.load(runs.read(folder))
    shutil.copy(run.folder / "chip.npz", folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("spike_threshold: 1.0", "spike_threshold: 2.0"))
    with pytest.raises(RequestError, match=r"model\.neuron\.spike_threshold=2\.0 \(the run had 1\.0\)"):
        load.load(runs.read(folder))


def test_keys_that_earlier_versions_never_read_do_no_harm(run, tmp_path):
    """They let ``+foo=3`` and ``+trainr.epochs=3`` stand in a config."""
    for name in ("weights.pt", "chip.npz"):
        (tmp_path / name).write_bytes(run.path(name).read_bytes())
    (tmp_path / "config.yaml").write_text(run.path("config.yaml").read_text() + "foo: 3\ntrainr:\n  epochs: 3\n")
    write_json(tmp_path / "run.json", {key: value for key, value in run.info.items() if key != "files"})
    assert load.load(runs.read(tmp_path)).classes == load.load(run).classes


def unsealed(run, folder, change):
    """The run's folder without a record of its files, and its weights as an earlier version wrote them, changed."""
    folder = shutil.copytree(run.folder, folder)
    write_json(folder / "run.json", {key: value for key, value in run.info.items() if key != "files"})
    content = torch.load(folder / "weights.pt", weights_only=True) | {"format": 1}
    change(content)
    torch.save(content, folder / "weights.pt")
    return runs.read(folder)


def set_plan(i, key, value):
    return lambda content: content["plan"]["layers"][i]["params"].update({key: value})


ODD = [
    (lambda c: c["weights"].update({"conv1.weight": None}), r"weights: conv1\.weight is NoneType; needed is a tensor"),
    (lambda c: c["weights"].pop("conv1.weight"), r"conv1\.weight should have shape \(8, 2, 3, 3\), found nothing"),
    (lambda c: c["weights"].update({"conv1.weight": torch.zeros(3)}), r"conv1\.weight should have .*, found \(3,\)"),
    (lambda c: c["weights"]["conv1.weight"].fill_(float("nan")), r"weights: conv1\.weight holds nan"),
    (lambda c: c.update(weights=None), "a checkpoint of another kind"),
    (lambda c: c.update(plan=None), "plan: null in place of name, input_shape and layers"),
    (
        lambda c: c["plan"].update(input_shape=[2, 35, 34]),
        r"plan: from \(2, 35, 34\) to \(10,\), the run's data and task",
    ),
    (lambda c: c["plan"].update(input_shape=[2, 34, -34]), r"plan: input_shape=\[2,34,-34\]; needed are 3 whole"),
    (lambda c: c["plan"].update(layers=[]), r"plan: layers=\[\]"),
    (lambda c: c["plan"]["layers"][0].pop("kind"), "plan: layer 0: .*in place of name, kind, params and inputs"),
    (lambda c: c["plan"]["layers"][0].update(kind="nope"), "model layer conv1: unknown kind 'nope'"),
    (set_plan(0, "out_channels", 10**5), r"conv1\.weight should have shape \(100000, 2, 3, 3\), found \(8, 2, 3, 3\)"),
    (
        set_plan(0, "out_channels", 8.5),
        r"plan: layer conv1 \(conv\): out_channels=8\.5; needed are whole numbers from 1",
    ),
    (set_plan(0, "stride", (0, 1)), r"plan: layer conv1 \(conv\): stride=\[0,1\]"),
    (lambda c: c["plan"]["layers"][0]["params"].pop("kernel_size"), "layer conv1 .*kernel_size is missing"),
    (set_plan(1, "v_init", -1.0), r"plan: layer spike1 \(neuron\)\.v_init=-1\.0: must be at least 0"),
    (set_plan(1, "v_inti", 0.5), r"plan: layer spike1 \(neuron\)\.v_inti=0\.5: no such key; did you mean .*v_init"),
]


@pytest.mark.parametrize(("change", "message"), ODD, ids=range(len(ODD)))
def test_odd_weights_are_named(run, tmp_path, monkeypatch, change, message):
    def never(*_):
        raise AssertionError("a network was made before its plan was held against the weights")

    monkeypatch.setattr(load, "network_of", never)
    with pytest.raises(RequestError, match=rf"weights\.pt: .*{message}") as caught:
        load.load(unsealed(run, tmp_path / "run", change))
    assert "\n" not in str(caught.value)


def test_a_chip_network_of_other_data_is_named(run, tmp_path):
    odd = unsealed(run, tmp_path / "run", lambda content: None)
    chip = load_chip(odd.folder / "chip.npz")
    save(replace(chip, readout=(0, 1)), odd.folder / "chip.npz")
    with pytest.raises(RequestError, match=r"chip\.npz: from \(2, 34, 34\) to 2 outputs, .* need \(2, 34, 34\) to 10"):
        load.load(odd)
