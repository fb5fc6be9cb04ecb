"""The command lines that the project was asked for, word for word, and which models and methods go together."""

from __future__ import annotations

import pytest

OFF = "tracking.enabled=false"
MODELS = {"cnn": "cnn", "qat_cnn": "cnn", "bptt_snn": "snn", "ptl": "cnn"}
METHODS = {
    "conversion": "cnn",
    "bptt": "snn",
    "cil_bptt": "snn",
    "cil_conversion": "cnn",
    "ptl": "cnn",
    "tandem": "cnn",
    "qcfs": "cnn",
}


def test_the_command_that_stands_for_the_project(cilspl, here):
    said = cilspl("validate", "method=cil_bptt", "target=speck", OFF)
    assert said.code == 0, said.err


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_a_model_and_a_method_go_together_or_say_what_does(cilspl, here, model, method):
    said = cilspl("validate", f"model={model}", f"method={method}", OFF)
    if MODELS[model] == METHODS[method]:
        assert said.code == 0, said.err
        return
    assert said.code == 2
    assert f"model={model}: method={method} trains a {METHODS[method]}; allowed are model=" in said.err
    allowed = said.err.partition("allowed are model=")[2].partition(";")[0].split(", ")
    assert f"; or method={'conversion or ptl' if MODELS[model] == 'cnn' else 'bptt or cil_bptt'}, which" in said.err
    for name in (one.strip() for one in allowed):
        assert cilspl("validate", f"model={name}", f"method={method}", OFF).code == 0


def test_every_fitting_model_is_named(cilspl, here):
    """Or a remedy would leave out what works."""
    for method, family in METHODS.items():
        other = next(model for model, own in MODELS.items() if own != family)
        said = cilspl("validate", f"model={other}", f"method={method}", OFF)
        assert all(model in said.err.partition("allowed")[2] for model, own in MODELS.items() if own == family)


def test_a_sweep_over_models_and_methods(cilspl, here):
    said = cilspl("validate", "-m", "model=cnn,qat_cnn,ptl", "method=conversion,cil_conversion,ptl", OFF)
    assert said.code == 0, said.err
    assert said.out.count("valid: method=") == 9


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("method=progressive_tandem", "method=ptl"),
        ("method=progressive_tandem_learning", "method=ptl"),
        ("method=tandem_learning", "method=tandem"),
        ("model=scnn6", "model.preset=scnn6"),
        ("model=alexnet_cifar", "model.preset=alexnet_cifar"),
        ("model=progressive_tandem", "model=ptl"),
        ("method=tandm", "method=tandem"),
    ],
)
def test_a_near_miss_names_what_is_meant(cilspl, here, words, meant):
    said = cilspl("run", words, OFF)
    assert said.code == 2
    assert meant.partition("=")[2] in said.err.partition("did you mean ")[2].partition("?")[0]
    rest = {
        "model.preset=alexnet_cifar": ["method=ptl", "dataset=cifar10", "target=software"],
        "model=ptl": ["method=ptl"],
    }
    assert cilspl("validate", meant, OFF, *rest.get(meant, [])).code == 0


@pytest.mark.parametrize("method", ["ptl", "tandem"])
def test_spikes_are_nothing_for_an_accelerator(cilspl, here, method):
    said = cilspl("validate", f"method={method}", "target=accelerator", OFF)
    assert said.code == 2
    assert f"target=accelerator: it runs a CNN, but method={method} trains spikes; use method=conversion" in said.err


def test_biases_and_a_read_out_without_neurons_are_nothing_for_a_chip(cilspl, here):
    said = cilspl("validate", "experiment=ptl_mnist", "target=speck", OFF)
    assert said.code == 2
    assert "target=speck: dataset=mnist gives values" in said.err
    said = cilspl("validate", "method=ptl", "model.preset=ptl_mnist", OFF)
    assert said.code == 2
    assert "norm: scale" in said.err
