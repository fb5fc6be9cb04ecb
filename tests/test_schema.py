"""What a config must not say, and the message then."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from cil_spl import schema
from cil_spl.base.errors import RequestError
from cil_spl.base.process import device_of


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
        (["model.layers={a: 1}"], r"model\.layers=\{a: 1\}: needs a list"),
        (["target.repeats=0"], r"target\.repeats=0: must be at least 1 and at most 1000"),
        (["neurons.backend=torch"], r"neurons\.backend=torch: .*allowed are auto, sinabs, fused"),
        (["neurons.recompute=maybe"], r"neurons\.recompute=maybe: needs true or false"),
        (["+neurons.recomputes=true"], r"neurons\.recomputes=true: no such key; did you mean recompute\?"),
        (["target.monitor=some"], r"target\.monitor=some: .*allowed are readout, all"),
        (["target.start_delay_us=-1"], r"target\.start_delay_us=-1: must be at least 0"),
        (["target.quiet_us=0"], r"target\.quiet_us=0: must be at least 1"),
        (["target.max_wait_us=0"], r"target\.max_wait_us=0: must be at least 1"),
        (["task.label_smoothing=2"], r"task\.label_smoothing=2(\.0)?: must be at least 0 and at most 1"),
        (["seed=-1"], r"seed=-1: must be at least 0 and at most 4294967295"),
        (["seed=1.5"], r"seed=1\.5: needs a whole number"),
        (["dataset.val_fraction=1"], r"dataset\.val_fraction=1"),
        (["dataset.preprocess.pool=3"], r"dataset\.preprocess\.pool=3"),
        # data and what they go with
        (
            ["dataset=mnist"],
            r"target=speck: dataset=mnist gives values, and this target takes events only; use target=software",
        ),
        (["dataset=mnist", "target=software", "frames.encode=events"], r"frames\.encode=events: .* allowed are repeat"),
        (["frames.encode=repeat"], r"frames\.encode=repeat: .* allowed are events, or null"),
        (["frames.encode=repaet"], r"frames\.encode=repaet: did you mean repeat\?"),
        (["dataset=mnist", "frames.by=count"], r"frames\.by=count: .* leave it at time"),
        (["dataset=mnist", "frames.duration_us=9"], r"frames\.duration_us=9: .* leave it null"),
        (["dataset=mnist", "dataset@test_dataset=nmnist"], r"test_dataset=nmnist gives events, dataset=mnist values"),
        (
            ["dataset=mnist", "dataset@test_dataset=digits"],
            r"test_dataset\.input_shape=\[1,8,8\]: dataset\.input_shape",
        ),
        (["dataset=mnist", "+dataset.sensor_size=[28,28,1]"], r"dataset\.sensor_size=\[28,28,1\]: no such key"),
        (
            ["dataset=mnist", "dataset.split_classes=[[0,1],[1,2]]"],
            r"dataset\.split_classes=.*class 1 stands there twice",
        ),
        # refused before any work, whatever it is
        (["method.lr=1e400"], r"method\.lr=inf: needs a finite number"),
        (["dataset.augment.jitter_us=.inf"], r"dataset\.augment\.jitter_us=\.?inf: needs a"),
        (["+dataset.simulator.dark=1e400"], r"dataset\.simulator\.dark=inf: needs a finite number"),
        (["model.layers=[{conv: 8, stride: 1e999}]"], r"model\.layers\[0\]\.stride=inf: needs a finite number"),
        (["target.die={leak: {conv1: 1e400}}"], r"target\.die\.leak\.conv1=inf: needs a finite number"),
        (["method=conversion", "method.gains=[-1,2]"], r"method\.gains=\[-1,2\]: each value must be more than 0"),
        (["method=conversion", "method.gains=[0]"], r"method\.gains=\[0\]: each value must be more than 0"),
        (["method=conversion", "method.gains=[]"], r"method\.gains=\[\]: needs a list, .* at least 1 value"),
        (["method=conversion", "method.gains=8"], r"method\.gains=8: needs a list"),
        (["seed=4294967296"], r"seed=4294967296: must be at least 0 and at most 4294967295"),
        (["seed=true"], r"seed=true: needs a whole number"),
        (["name=[1]"], r"name=\[1\]: needs text"),
        (["start_from=[1,2,3]"], r"start_from=\[1,2,3\]: needs text, or null"),
        (["start_from=''"], r"start_from="),
        (["extensions=os"], r"extensions=os: needs a list of modules"),
        (["target.die=5"], r"target\.die=5: needs names and values"),
        (["target.die={fifo: 3}"], r"target\.die\.fifo=3: a core without a rate never waits"),
        (["observer.die={fifo: 3}"], r"observer\.die\.fifo=3: a core without a rate never waits"),
        (["+foo=3"], r"^foo=3: no such key; allowed are seed, name"),
        (["+sed=3"], r"^sed=3: no such key; did you mean seed\?"),
        (["+trainr.epochs=3"], r"^trainr\.epochs=3: no such group trainr; did you mean trainer\?"),
        (["+test_dataset=5"], r"test_dataset=5: needs names and values"),
        (["+test_dataset.root=x"], r"test_dataset\.root: there is no test_dataset .* dataset@test_dataset=NAME"),
        (["dataset@test_dataset=nmnist", "test_dataset.split=some"], r"test_dataset\.split=some: .*train, test, all"),
        (["dataset@test_dataset=nmnist", "test_dataset.preprocess.pool=3"], r"^test_dataset\.preprocess\.pool=3"),
        (["dataset=nmnist", "dataset.root=[1]"], r"dataset\.root=\[1\]: needs the folder"),
        (["~method"], r"method=null: choose one"),
        (["method.name=null"], r"method\.name=null: needs text"),
        (["trainer.epochs=true"], r"trainer\.epochs=true: needs a whole number"),
        (["trainer.device=gpu"], r"trainer\.device=gpu: needs one of cpu, cuda, cuda:NUMBER, auto"),
        (["quantize.aware=2"], r"quantize\.aware=2: needs true or false"),
        (["tracking.uri=[1]"], r"tracking\.uri=\[1\]: needs text"),
        (["frames.duration_us=3"], r"frames\.duration_us=3: shorter than its 4 bins"),
        (["frames.duration_us=300", "frames.by=count"], r"frames\.duration_us=300 goes with frames\.by=time"),
        (["model.layers=[]"], r"model\.layers=\[\]: needs a list"),
        (["model.layers=[{linaer: 3}]"], r"model\.layers\[0\]=\{linaer: 3\}: needs `conv"),
        (["model.layers=[3]"], r"model\.layers\[0\]=3: needs `conv: FEATURES`"),
        (["model.layers=[{conv: 8, kernal: 3}]"], r"model\.layers\[0\]\.kernal=3: .*did you mean kernel\?"),
        (
            ["model.layers=[{conv: 8, kernel: 0}]"],
            r"model\.layers\[0\]\.kernel=0: needs a whole number, at least 1, or two",
        ),
        (["model.layers=[{conv: 8, kernel: [3, 3, 3]}]"], r"model\.layers\[0\]\.kernel=\[3,3,3\]: needs"),
        (
            ["model.layers=[{conv: 8, padding: -1}]"],
            r"model\.layers\[0\]\.padding=-1: needs a whole number, at least 0",
        ),
        (["model.layers=[{linear: clases}]"], r"model\.layers\[0\]\.linear=clases: needs .*`classes`"),
        (
            ["+model.neuron.surrogate_args.grad_widt=1"],
            r"surrogate_args\.grad_widt=1\S*: no such key; did you mean grad_width\?",
        ),
        (["+model.neuron.surrogate_args.grad_width=x"], r"surrogate_args\.grad_width=x: needs a number"),
        (["+dataset.simulator.noise_on_hz=-1"], r"dataset\.simulator\.noise_on_hz=-1: must be at least 0"),
        (["+dataset.simulator.path_ms=[0,1]"], r"dataset\.simulator\.path_ms, .* the same number of knots"),
        # groups that do not go together
        (["method=bptt", "model=cnn"], r"model=cnn: method=bptt trains a snn; allowed are model=bptt_snn"),
        (
            ["method=conversion", "model=bptt_snn"],
            r"model=bptt_snn: method=conversion trains a cnn; allowed are model=cnn",
        ),
        (["method=bptt", "model.neuron.kind=lif", "target=software"], r"model\.neuron\.tau_mem=null"),
        (
            ["model.neuron.min_v_mem=null", "quantize.aware=true"],
            r"model\.neuron\.min_v_mem=null: quantize\.aware=true rounds .*min_v_mem=-1, or quantize\.aware=false",
        ),
        (
            ["model.neuron.min_v_mem=null", "method=conversion", "model=qat_cnn", "target=accelerator"],
            r"model\.neuron\.min_v_mem=null: model\.aware=true",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_with_key_value_and_what_is_allowed(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        schema.check_config(config(*overrides))
    assert re.search(message, str(caught.value)), str(caught.value)


def test_numbers_are_taken_in_any_form() -> None:
    cfg = schema.check_config(config("method.lr=1e-3", "trainer.max_seconds=60", "frames.duration_us=300000"))
    assert cfg.method.lr == 1e-3
    assert cfg.trainer.max_seconds == 60.0


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.epochs=0"],
        ["frames.bins=0"],
        ["model.neuron.spike_threshold=0"],
        ["model.layers=[3]"],
        ["dataset.val_fraction=2"],
        ["+dataset.nope=2"],
        ["seed=-1"],
        ["+trainr.epochs=3"],
        ["method._target_=os.system"],
        ["model.neuron.kind=lif"],
        ["frames.encode=once"],
        ["dataset=mnist", "dataset.split_classes=[[0]]"],
        ["dataset=mnist", "dataset@test_dataset=nmnist"],
    ],
    ids=" ".join,
)
def test_most_mistakes_are_answered_without_torch(overrides: list[str]) -> None:
    code = f"""if True:
        import sys
        from hydra import compose, initialize_config_module
        from cil_spl import schema
        from cil_spl.base.errors import RequestError
        with initialize_config_module("cil_spl.conf", version_base="1.3"):
            cfg = compose("config", overrides={overrides!r})
        try:
            schema.check_config(cfg)
        except RequestError:
            print([m for m in ("torch", "numba", "mlflow", "sinabs") if m in sys.modules])
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def cards(monkeypatch: pytest.MonkeyPatch, n: int, capability: tuple[int, int] = (9, 0)) -> None:
    """A machine with so many CUDA devices."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: n > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: n)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda place: f"Card {place}")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda place: capability)


@pytest.mark.parametrize(
    ("name", "n", "said"),
    [
        ("cuda", 0, "torch finds no CUDA device here"),
        ("cuda:1", 0, "torch finds no CUDA device here"),
        ("cuda:1", 1, r"torch finds cuda:0 \(Card 0\), and no other"),
        ("cuda:2", 2, r"torch finds cuda:0 \(Card 0\), cuda:1 \(Card 1\), and no other"),
    ],
)
def test_a_device_that_is_not_there(name: str, n: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, n)
    with pytest.raises(RequestError, match=rf"trainer\.device={name}: {said}"):
        schema.check_config(config(f"trainer.device={name}"))
    for number in range(n):
        there = f"cuda:{number}"
        assert schema.check_config(config(f"trainer.device={there}")).trainer.device == there
        assert device_of(there) == torch.device("cuda", number)


@pytest.mark.parametrize("name", ["cuda:", "cuda:01", "cuda:-1", "cuda1", "cuda:1:2", "CUDA"])
def test_a_device_that_is_none(name: str) -> None:
    with pytest.raises(RequestError, match=f"trainer.device={name}: needs one of cpu, cuda, cuda:NUMBER, auto"):
        schema.check_config(config(f"trainer.device='{name}'"))


def test_several_ranks_do_not_share_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match=r"cuda:1: 2 processes train together.*use trainer.device=cuda"):
        schema.check_config(config("trainer.device=cuda:1"))
    assert schema.check_config(config("trainer.device=cuda")).trainer.device == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of("cuda") == torch.device("cuda", 1)


def test_bfloat16_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    bf16 = "trainer.precision=bf16"
    assert schema.check_config(config(bf16)).trainer.precision == "bf16"
    for key in ("quantize.aware", "model.aware"):
        with pytest.raises(RequestError, match=rf"trainer\.precision=bf16: {key}=true trains with weights as the chip"):
            schema.check_config(config(bf16, f"{key}=true"))
    cards(monkeypatch, 1, (7, 5))
    for device in ("cuda", "cuda:0", "auto"):
        with pytest.raises(RequestError, match=r"trainer\.precision=bf16: Card .* does not compute in bfloat16"):
            schema.check_config(config(bf16, f"trainer.device={device}"))
    schema.check_config(config(bf16, "trainer.device=cpu"))
    cards(monkeypatch, 1)
    schema.check_config(config(bf16, "trainer.device=cuda"))
    with pytest.raises(RequestError, match=r"trainer\.precision=fp16"):
        schema.check_config(config("trainer.precision=fp16"))


def test_a_method_of_one_experience_is_not_given_several() -> None:
    cfg = schema.check_config(config("method=bptt"))
    schema.check_experiences(cfg, 1)
    with pytest.raises(RequestError, match=r"dataset=event_digits: it has 3 experiences, but method=bptt trains on 1"):
        schema.check_experiences(cfg, 3)


def test_a_target_says_itself_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from cil_spl.targets.software import Software

    samples = config("dataset=digits", "method=bptt", "target=software")
    assert schema.check_config(samples).frames.encode is None
    monkeypatch.setattr(Software, "takes", ("events",))
    with pytest.raises(RequestError, match="target=software: dataset=digits gives values"):
        schema.check_config(samples)
    monkeypatch.delattr(Software, "takes")  # a user's own that says nothing is trusted with everything
    schema.check_config(samples)


def test_what_is_checked_stays_in_its_order_and_is_checked_again() -> None:
    once = schema.check_config(config("method=conversion"))
    again = schema.check_config(once)
    assert OmegaConf.to_container(once) == OmegaConf.to_container(again)
    assert list(once.method)[:3] == ["_target_", "name", "lr"]


def test_what_a_run_asks_of_its_target() -> None:
    asked = schema.asked(schema.check_config(config("method.init_rate=0.5", "model.neuron.min_v_mem=-3")))
    assert (asked.method, asked.family, asked.init_rate) == ("cil_bptt", "snn", 0.5)
    assert asked.neuron["min_v_mem"] == -3
    assert asked.observer is not None
    assert (asked.observer["name"], asked.observer["layers"]) == ("chip", "all")
    asked = schema.asked(schema.check_config(config("method=conversion")))
    assert (asked.method, asked.family, asked.init_rate, asked.observer) == ("conversion", "cnn", 1.0, None)


def test_light_enough_for_the_command_line() -> None:
    code = "import sys, cil_spl.schema; print([m for m in ('torch', 'numpy', 'mlflow', 'sinabs') if m in sys.modules])"
    found: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=sltt_k", "method.k=9"], r"method\.k=9: there are only frames\.bins=4 time steps"),
        (["method=ottt", "method.update=online", "observer=chip"], r"method\.update=online: weights change at every"),
        (["method=ptl", "method.pretrain=false"], r"method\.pretrain=false: start_from=null; name a trained ANN"),
        (["method=ptl", "observer=chip", "observer.layers=output"], r"observer\.layers=output: method=ptl takes the"),
        (
            ["method=dsr", "quantize.aware=true"],
            r"quantize\.aware=true: method=dsr trains weights for spikes",
        ),
        (["method=cil_bptt", "observer=none"], r"observer=none: method=cil_bptt needs a chip in the loop"),
        (["method=cil_conversion", "observer=none"], r"observer=none: method=cil_conversion needs a chip in the loop"),
        (
            ["method=bptt", "dataset=digits", "target=software", "dataset.permutations=2"],
            r"dataset=digits: it has 2 experiences, but method=bptt trains on 1",
        ),
        (
            ["method=qcfs", "method.levels=99999999999999999999"],
            r"method\.levels=9+: must be at least 1 and at most 10485",
        ),
        (
            ["method=qcfs", "method.spikes=100000000"],
            r"method\.spikes=100000000: must be at least 1 and at most 1048576",
        ),
        (
            ["method=ptl", "method.levels=100000000"],
            r"method\.levels=100000000: must be at least 1 and at most 1048576",
        ),
        (
            ["method=ptl", f"method.calibration_batches={2**63}"],
            r"method\.calibration_batches=9\d+: must be at least 1",
        ),
        (
            ["method=conversion", "method.gains=[1, 1e9]"],
            r"method\.gains=.*: each value must be more than 0 and at most",
        ),
        (["method=cil_bptt", "method.meter=100000"], r"method\.meter=100000: must be at least 0 and at most 1024"),
        (
            ["method=cil_conversion", "method.meter=100000"],
            r"method\.meter=100000: must be at least 0 and at most 1024",
        ),
        (
            ["dataset=digits", "target=software", "method=bptt", "dataset.permutations=100000"],
            r"dataset\.permutations=1",
        ),
    ],
)
def test_what_a_method_cannot_train_is_refused_before_anything_is_read(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        schema.check_config(config(*overrides))


def test_a_trained_threshold_of_a_network_that_is_converted_is_said() -> None:
    trained = "model.neuron.trained_threshold=true"
    for method in ("qcfs", "ptl", "tandem", "conversion", "cil_conversion"):
        (told,) = schema.remarks(schema.check_config(config(f"method={method}", trained)))
        assert told.startswith(f"{trained}: method={method} trains a CNN, which has no thresholds, so it has no effect")
    assert schema.remarks(schema.check_config(config("method=bptt", trained))) == []
