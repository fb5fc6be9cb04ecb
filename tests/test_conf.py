"""Every config in conf/ composes, and fits the schema together with some method."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import cil_spl.cli.run  # noqa: F401  (registers the resolvers that conf/hydra uses)
from cil_spl import schema
from cil_spl.base import fence, options
from cil_spl.base.errors import RequestError
from cil_spl.chip.observer import ChipObserver
from cil_spl.chip.rounding import Precision
from cil_spl.data.augment import Augment
from cil_spl.data.augment_images import AugmentImages
from cil_spl.data.options import Dataset, Frames, SampleDataset, kind_of, options_of
from cil_spl.data.preprocess import Preprocess
from cil_spl.models import neurons
from cil_spl.models.options import Backend, Model, Neuron
from cil_spl.training.options import Trainer

CONF = Path(__file__).resolve().parents[1] / "conf"
CHOICES = sorted(
    path.relative_to(CONF).with_suffix("").as_posix()
    for path in CONF.rglob("*.yaml")
    if path.parent.parent == CONF and path.parent.name not in ("hydra", "local")  # deeper lies what choices share
)
OURS = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in (CONF / "hydra").rglob("*.yaml"))
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def composed(*overrides: str, hydra_too: bool = False):
    with initialize_config_module("cil_spl.conf", version_base="1.3", job_name="cilspl"):
        return compose("config", overrides=list(overrides), return_hydra_config=hydra_too)


def test_the_defaults_fit():
    cfg = schema.check_config(composed())
    assert (cfg.method.name, cfg.model.name, cfg.target.name) == ("cil_bptt", "bptt_snn", "speck")


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_fits_some_method(choice):
    group, _, name = choice.partition("/")
    with_method = [[]] if group in ("method", "experiment") else [[], *([f"method={m}"] for m in METHODS)]
    if group == "dataset" and kind_of(composed(choice.replace("/", "=")).dataset) == "values":
        with_method = [[*method, "target=software"] for method in with_method]
    refused = []
    for method in with_method:
        cfg = composed(f"{group}={name}", *method)
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        try:
            schema.check_config(cfg)
        except RequestError as error:
            refused.append(str(error))
    assert len(refused) < len(with_method), refused


@pytest.mark.parametrize("method", METHODS)
def test_a_method_picks_its_model(method):
    assert schema.check_config(composed(f"method={method}")).method.name == method


@pytest.mark.parametrize("choice", [c for c in CHOICES if c.startswith("dataset/")])
def test_every_data_set_can_be_the_one_tested_on(choice):
    name = choice.removeprefix("dataset/")
    assert composed(f"dataset@test_dataset={name}").test_dataset.name == name


@pytest.mark.parametrize("choice", OURS)
def test_our_settings_of_hydra_are_the_ones_in_use(choice):
    group, _, name = choice.rpartition("/")
    chosen = composed(hydra_too=True).hydra.runtime.choices
    assert chosen[group] == name


@pytest.mark.parametrize("group", sorted({c.partition("/")[0] for c in CHOICES} - {"experiment"}))
def test_an_unknown_key_is_refused_by_name(group):
    method = ["method=cil_bptt"] if group == "observer" else []  # there is none by default
    cfg = composed(f"+{group}.no_such_key=1", *method)
    with pytest.raises(RequestError, match=rf"{group}\.no_such_key"):
        schema.check_config(cfg)


# What a group's YAML says is what the signature says, so that leaving a key out changes nothing.


def own_values(group: str, name: str) -> dict:
    node = OmegaConf.to_container(composed(f"{group}={name}")[group], resolve=True)
    return {key: value for key, value in node.items() if key not in ("_target_", "name")}


@pytest.mark.parametrize("choice", [c for c in CHOICES if c.split("/")[0] in ("method", "target", "task", "dataset")])
def test_the_yaml_repeats_the_signature(choice):
    group, _, name = choice.partition("/")
    node = composed(f"{group}={name}")[group]
    function = fence.locate(group, node._target_)
    given = schema.CALLED[group]
    said = own_values(group, name)
    expected = options.defaults(function, given)
    assert expected.pop("name", node.name) == node.name == name
    assert set(options.names(function, given)) - {"name"} == set(expected)  # each option has a default
    if group == "dataset":
        common = options_of(node)
        of_images = common is SampleDataset
        apart = ("preprocess", "augment", "standardise")  # a set may have its own defaults of these
        shared = {key: said.pop(key) for key in set(options.names(common)) - {"name"}}
        assert {key: expected.pop(key) for key in set(shared) & set(expected)}.items() <= shared.items()
        rest = options.defaults(common)
        assert {k: shared[k] for k in rest if k not in apart} == {k: v for k, v in rest.items() if k not in apart}
        assert set(shared["augment"]) == set(options.names(AugmentImages if of_images else Augment))
        assert of_images or set(shared["preprocess"]) == set(options.names(Preprocess))
    assert said == expected


def test_the_yaml_of_what_data_sets_share_repeats_the_dataclasses():
    parts = {"preprocess": Preprocess, "augment": Augment}
    for name, kind in (("recordings", Dataset), ("samples", SampleDataset)):
        shared = OmegaConf.load(CONF / "dataset" / "common" / f"{name}.yaml")
        expected = options.defaults(kind)
        for part in {"preprocess", "augment"} & set(expected):
            taken = AugmentImages if (name, part) == ("samples", "augment") else parts[part]
            assert (shared.pop(part), expected.pop(part)) == (options.defaults(taken), {})
        assert shared == expected


def test_the_yaml_of_the_observer_repeats_the_signature():
    assert own_values("observer", "chip") == options.defaults(ChipObserver, 3)


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("frames", Frames),
        ("neurons", Backend),
        ("quantize", Precision),
        ("trainer", Trainer),
        ("tracking", schema.Tracking),
    ],
)
def test_the_yaml_of_a_group_repeats_its_dataclass(group, kind):
    assert composed()[group] == options.defaults(kind)


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("bptt_snn", {}),
        ("cnn", {"name": "cnn", "family": "cnn"}),
        ("qat_cnn", {"name": "qat_cnn", "family": "cnn", "aware": True}),
    ],
)
def test_the_yaml_of_a_model_repeats_its_dataclass(name, differs):
    model = composed(f"model={name}").model
    assert model == options.defaults(Model) | {"neuron": options.defaults(Neuron)} | differs


def test_the_yaml_of_a_run_repeats_its_dataclass():
    cfg = composed()
    assert {key: cfg[key] for key in options.names(schema.Run)} == options.defaults(schema.Run)


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["method=conversion", "~method.gains"], "method.gains", [1, 2, 4, 8, 16, 32, 64]),
        (["~model.neuron.min_v_mem"], "model.neuron.min_v_mem", -8.0),
        (["~model.width"], "model.width", 1.0),
        (["~trainer.epochs"], "trainer.epochs", 25),
        (["~target.monitor"], "target.monitor", "readout"),
        (["~dataset.val_fraction"], "dataset.val_fraction", 0.1),
        (["~dataset.simulator_seed"], "dataset.simulator_seed", 0),
        (["~seed"], "seed", 0),
    ],
)
def test_a_key_that_is_left_out_has_the_default(overrides, key, value):
    assert OmegaConf.select(schema.check_config(composed(*overrides)), key) == value


def test_the_neurons_default_is_the_configs():
    assert float(neurons.make().min_v_mem) == composed().model.neuron.min_v_mem
