"""Presets and their width at the command line."""

from __future__ import annotations

import pytest

from cil_spl.models.presets import PRESETS

OFF = "tracking.enabled=false"
IMAGES = ("dataset=digits", "method=bptt", "target=software", OFF)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_valid_in_software_at_any_width(cilspl, here, name):
    said = cilspl("validate", *IMAGES, f"model.preset={name}", "model.width=0.25")
    assert said.code == 0, said.err


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"quickstart", "scnn6"}))
def test_what_a_chip_cannot_hold_is_refused_with_the_reason(cilspl, here, name):
    said = cilspl("validate", f"model.preset={name}", "target=speck", OFF)
    assert said.code == 2
    assert said.err.startswith(f"cilspl: model {name}: layer norm1 (norm) adds a current, and a chip has no biases; ")
    assert "target=software" in said.err


def test_a_chip_holds_a_narrow_one_of_its_own(cilspl, here):
    assert cilspl("validate", "model.width=0.5", "model.preset=scnn6", OFF).code == 0
    said = cilspl("validate", "model.width=64", "model.preset=scnn6", OFF)
    assert said.code == 2
    assert "model scnn6: layer conv" in said.err


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("command", ["run", "validate"])
def test_a_preset_that_is_given_as_a_model_is_known(cilspl, here, pipeline, command, name):
    said = cilspl(command, f"model={name}")
    assert said.code == 2
    assert said.err.startswith(f"cilspl: model={name}: no such choice; did you mean model.preset={name}? allowed are ")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("model=vgg16", "model.preset=vgg16_cifar"),
        ("model=alexnet", "model.preset=alexnet_cifar"),
        ("model=snn", "model=bptt_snn"),
        ("model=qat", "qat_cnn"),
        ("method=cil_spl", "method=cil_bptt"),
        ("method=surrogate_gradients", "method=bptt"),
        ("method=ann2snn", "method=conversion"),
        ("method=progressive_tandem", "method=ptl"),
        ("method=progressive_tandem_learning", "method=ptl"),
        ("method=tandem_learning", "method=tandem"),
        ("model=progressive_tandem", "model=ptl"),
        ("-m model=scnn6,cnn", "model.preset=scnn6"),
    ],
)
def test_near_misses_name_what_is_meant(cilspl, here, pipeline, word, meant):
    said = cilspl("run", *word.split())
    assert said.code == 2
    assert f"no such choice; did you mean {meant}? allowed are " in said.err
    assert pipeline.ran == []


def test_other_names_stand_for_what_there_is():
    from importlib.resources import files

    from cil_spl.cli.explain import OTHER_NAMES
    from cil_spl.cli.ls import listing

    for group, names in OTHER_NAMES.items():
        there = set(listing([files("cil_spl.conf")], group))
        assert set(names.values()) <= there
        assert not set(names) & there


def test_ls_says_which_presets_there_are(cilspl, here):
    lines = cilspl("ls", "presets").out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(PRESETS)
    assert all(len(line.split()) > 3 for line in lines)
    assert "presets (model.preset=)" in cilspl("ls").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.width=0"], "model.width=0: must be more than 0"),
        (["model.width=-1"], "model.width=-1: must be more than 0"),
        (["model.width=wide"], "model.width=wide: needs a number, more than 0"),
        (["model.width=true"], "model.width=true: needs a number, more than 0"),
        (
            ["model.width=1e6"],
            "model.width=1e+06: the 3456000232000000 weights of model quickstart would take 1.38e+07",
        ),
        (["model.width=inf"], "model.width=inf: needs a finite number"),
        (
            ["model.width=2", "model.layers=[{conv: 1, padding: 1, name: a}, {add: [a, input]}, {linear: classes}]"],
            "model.width=2: model layer add2",
        ),
        (
            ["model._target_=own_nets.make", "extensions=[own_nets]", "model.width=0.5"],
            "model.width=0.5: model._target_=own_nets.make makes its layers itself; leave it at 1, and give your",
        ),
    ],
)
def test_a_width_that_means_nothing_is_refused(cilspl, here, words, message):
    (here / "own_nets.py").write_text("def make(input_shape, n_outputs): raise AssertionError('not called')\n")
    said = cilspl("validate", *IMAGES, *words)
    assert said.code == 2
    assert said.err.startswith(f"cilspl: {message}"), said.err
