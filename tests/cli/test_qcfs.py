"""``cilspl run method=qcfs``: where its neurons start is kept with the run, on a chip and in software."""

from __future__ import annotations

import pytest

from cil_spl.chip.interchange import load
from tests.cli.conftest import run_in
from tests.cli.test_evaluate import figures, stages

SMALL = ("trainer.epochs=2", "trainer.limit_batches=12", "tracking.enabled=false")
IMAGES = (
    "dataset=digits", "target=software", "model.neuron.spike_fn=single", "model.neuron.min_v_mem=null",
    "model.layers=[{conv:4,padding:1,bias:true,pool:2},{linear:classes,bias:true,neuron:false}]",
    "frames.bins=6", "dataset.n_train=400", "dataset.n_test=40", "method.lr=0.03",
)  # fmt: skip


@pytest.fixture(scope="module")
def on_chip(tmp_path_factory):
    """The defaults, a few batches of them."""
    place = tmp_path_factory.mktemp("chip")
    run_in(place, "run", "method=qcfs", "hydra.run.dir=one", *SMALL)
    return place / "one"


@pytest.fixture(scope="module")
def in_software(tmp_path_factory):
    place = tmp_path_factory.mktemp("software")
    run_in(place, "run", "method=qcfs", "hydra.run.dir=one", "model.neuron.threshold_per=channel", *IMAGES, *SMALL)
    return place / "one"


def as_it_was(cilspl, run, names):
    said = cilspl("evaluate", str(run))
    assert said.code == 0, said.err
    was, found = figures(run), stages(said.out)
    for stage, other in names.items():
        for name in ("accuracy", "synops"):
            assert found[stage][name] == pytest.approx(was[f"{other}/{name}"], rel=1e-5), (stage, name)
    return was


def test_on_the_defaults_it_is_a_chip_network_that_starts_at_half_its_thresholds(cilspl, here, on_chip):
    was = as_it_was(
        cilspl, on_chip, {"float": "spiking", "quantized": "quantized", "deployed": "deployed"}
    )  # from its files, where the network in time steps is the float one
    assert {"float/accuracy", "chosen/lambda_spike1", "chosen/spikes", "val/deployed_accuracy"} <= set(was)
    chip = load(on_chip / "chip.npz")
    assert all(abs(2 * layer.v_init - layer.threshold) <= 1 for layer in chip.layers)
    assert cilspl("chip", "show", str(on_chip)).code == 0
    said = cilspl("chip", "mismatch", str(on_chip), "bins=4", "--recordings", "5", "--out", str(here))
    assert said.code == 0, said.err


def test_images_in_software(cilspl, here, in_software):
    """Where each channel has its own lambda, the spiking network has one threshold, which its file says."""
    was = as_it_was(cilspl, in_software, {"float": "spiking", "deployed": "deployed"})
    assert was["chosen/spikes"] == 6
    assert was["deployed/accuracy"] == was["spiking/accuracy"] > 0.3


def test_a_chip_may_be_in_the_loop(cilspl, here):
    said = cilspl("run", "method=qcfs", "observer=chip", *SMALL)
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.neuron.kind=lif", "model.neuron.tau_mem=4", "target=software"),
         "model.neuron.kind=lif: method=qcfs needs neurons with model.neuron.kind=iaf"),
        (("model.neuron.reset_fn=zero",),
         "model.neuron.reset_fn=zero: method=qcfs needs neurons with model.neuron.reset_fn=subtract"),
        (("method.levels=0",), "method.levels=0: must be at least 1"),
        (("method.spikes=0.5",), "method.spikes=0.5: needs a whole number"),
        (("model=bptt_snn",), "model=bptt_snn: method=qcfs trains a cnn"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(cilspl, here, words, message):
    said = cilspl("validate", "method=qcfs", *words)
    assert said.code == 2
    assert message in said.err
