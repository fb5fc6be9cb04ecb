"""What a config must not say, and what a person is told then."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from cil_spl import schema
from cil_spl.base.errors import RequestError


def config(*overrides: str) -> DictConfig:
    with initialize_config_module("cil_spl.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.lr=abc"], r"method\.lr=abc: needs a number, more than 0"),
        (["method.lr=0"], r"method\.lr=0(\.0)?: must be more than 0"),
        (["method.lr=nan"], r"method\.lr=nan: needs a finite number"),
        (["trainer.epochs=0"], r"trainer\.epochs=0: must be at least 1"),
        (["trainer.epochs=2.5"], r"trainer\.epochs=2\.5"),
        (["trainer.optimizer=adamm"], r"trainer\.optimizer=adamm: did you mean adam\? allowed are adam, sgd"),
        (["frames.by=tiem"], r"frames\.by=tiem: did you mean time\? allowed are time, count"),
        (["+method.lrr=1"], r"method\.lrr=1: no such key; did you mean lr\? allowed are"),
        (["+trainer.epoch=1"], r"trainer\.epoch=1: no such key; did you mean epochs\?"),
        (["model.preset=scnn7"], r"model\.preset=scnn7: did you mean scnn6\? allowed are quickstart, scnn6"),
        (["model.neuron.spike_threshold=0"], r"model\.neuron\.spike_threshold=0(\.0)?: must be more than 0"),
        (["model.neuron.min_v_mem=1"], r"model\.neuron\.min_v_mem=1(\.0)?: must be at most 0"),
        (
            ["method.percentile=101", "method=conversion"],
            r"method\.percentile=101(\.0)?: must be at least 50 and at most 100",
        ),
        (["target.backend=board"], r"target\.backend=board: .*allowed are auto, simulator, device"),
        (["target.die=[1]"], r"target\.die=\[1\]: needs names and values"),
        (["target.die=x"], r"target\.die=x: needs names and values"),
        (["model.layers={a: 1}"], r"model\.layers=\{'a': 1\}: needs a list"),
        (["target.repeats=0"], r"target\.repeats=0: must be at least 1 and at most 1000"),
        (["target.monitor=some"], r"target\.monitor=some: .*allowed are readout, all"),
        (["target.start_delay_us=-1"], r"target\.start_delay_us=-1: must be at least 0"),
        (["target.quiet_us=0"], r"target\.quiet_us=0: must be at least 1"),
        (["target.max_wait_us=0"], r"target\.max_wait_us=0: must be at least 1"),
        (["task.label_smoothing=2"], r"task\.label_smoothing=2(\.0)?: must be at least 0 and at most 1"),
        (["seed=-1"], r"seed=-1: must be at least 0 and at most 4294967295"),
        (["seed=1.5"], r"seed=1\.5: needs a whole number"),
        (["dataset.val_fraction=1"], r"dataset\.val_fraction=1"),
        (["dataset.preprocess.pool=3"], r"dataset\.preprocess\.pool=3"),
        # groups that do not go together
        (["method=bptt", "model=cnn"], r"model=cnn: method=bptt trains a snn; allowed are model=bptt_snn"),
        (
            ["method=conversion", "model=bptt_snn"],
            r"model=bptt_snn: method=conversion trains a cnn; allowed are model=cnn",
        ),
        (["target=accelerator"], r"target=accelerator: .*use method=conversion"),
        (["target.backend=device"], r"target\.monitor=readout: .*use target\.monitor=all"),
        (["target.backend=device", "observer.v_mem=true"], r"observer\.v_mem=true"),
        (["target=software"], r"target=software: .*method=bptt"),
        (["model.neuron.kind=lif", "model.neuron.tau_mem=5"], r"model\.neuron\.kind=lif: target=speck .*kind=iaf"),
        (["method=bptt", "model.neuron.kind=lif", "target=software"], r"model\.neuron\.tau_mem=null"),
        (["model.neuron.min_v_mem=null"], r"model\.neuron\.min_v_mem=null: quantising needs a lower bound"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_with_key_value_and_what_is_allowed(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        schema.check_config(config(*overrides))
    assert re.search(message, str(caught.value)), str(caught.value)


def test_only_trusted_modules_are_run() -> None:
    with pytest.raises(
        RequestError, match=r"method\._target_=os\.system: only functions of cil_spl .*extensions=\[os\]"
    ):
        schema.check_config(config("method._target_=os.system"))
    with pytest.raises(RequestError, match="only functions of"):
        schema.check_config(config("method._target_=cil_spl_evil.train"))  # a prefix of the name is not the package


def test_a_module_of_ones_own_is_run_when_named() -> None:
    cfg = config("method._target_=shlex.split", "extensions=[shlex]")
    with pytest.raises(RequestError, match=r"method\.\w+=.*: no such key"):
        schema.check_config(cfg)  # found, and its signature does not have these keys


def test_numbers_are_taken_in_any_form() -> None:
    cfg = schema.check_config(config("method.lr=1e-3", "trainer.max_seconds=60", "frames.duration_us=300000"))
    assert cfg.method.lr == 1e-3
    assert cfg.trainer.max_seconds == 60.0


def test_light_enough_for_the_command_line() -> None:
    import subprocess
    import sys

    code = "import sys, cil_spl.schema; print([m for m in ('torch', 'numpy', 'mlflow', 'sinabs') if m in sys.modules])"
    found: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
