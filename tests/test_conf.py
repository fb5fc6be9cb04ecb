"""Every config in conf/ composes, and fits the schema together with some method."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import cil_spl.cli.run  # noqa: F401  (registers the resolvers that conf/hydra uses)
from cil_spl import schema
from cil_spl.base.errors import RequestError

CONF = Path(__file__).resolve().parents[1] / "conf"
CHOICES = sorted(
    path.relative_to(CONF).with_suffix("").as_posix()
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.relative_to(CONF).parts[0] not in ("hydra", "local")
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
