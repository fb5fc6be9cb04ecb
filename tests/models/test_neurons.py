"""One layer of neurons in time: golden traces, sinabs, the hand-written recursion, the fused path."""

from __future__ import annotations

import math

import pytest
import sinabs.layers as sl
import torch
from torch.autograd import grad

from cil_spl.base.errors import RequestError
from cil_spl.models import fused, neurons
from cil_spl.models.neurons import Observation

KINDS = [
    {"min_v_mem": -1.0},
    {"min_v_mem": -1.0, "spike_fn": "single"},
    {"min_v_mem": -1.0, "surrogate_grad_fn": "single_exponential"},
    {"min_v_mem": -1.0, "kind": "lif", "tau_mem": 3.0},
    {"min_v_mem": None},
    {"min_v_mem": -1.0, "reset_fn": "zero"},
    {"spike_threshold": 0.7, "min_v_mem": -0.4},
]


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the path that goes step by step."""
    monkeypatch.setattr(fused, "supports", lambda *_: False)


def column(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).reshape(-1, 1, 1)  # T -> T B N


@pytest.mark.parametrize("path", ["stepwise", "fused"])
@pytest.mark.parametrize(
    ("kind", "spikes", "v_end"),
    [
        # v: .5 | 1.25 -> .25, 1 spike | -1.75 -> clipped -1 | 2.5 -> .5, 2 spikes | .75
        ({"min_v_mem": -1.0}, [0, 1, 0, 2, 0], 0.75),
        ({"spike_fn": "single", "min_v_mem": -1.0}, [0, 1, 0, 1, 1], 0.75),
        # without a bound: .25 - 2 = -1.75 | 1.75 -> .75 | 1 -> 0, 1 spike
        ({"min_v_mem": None}, [0, 1, 0, 1, 1], 0.0),
        ({"spike_threshold": 2.0, "min_v_mem": -1.0}, [0, 0, 0, 1, 0], 1.0),
    ],
)
def test_golden_trace(path: str, kind: dict, spikes: list[int], v_end: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "stepwise":
        monkeypatch.setattr(fused, "supports", lambda *_: False)
    s, v = neurons.run("spike", neurons.make(**kind), column([0.5, 0.75, -2.0, 3.5, 0.25]))
    assert s.flatten().tolist() == spikes
    assert v.item() == v_end


def test_leak_golden_trace() -> None:
    layer = neurons.make(kind="lif", tau_mem=1.0, min_v_mem=-1.0)
    s, v = neurons.run("spike", layer, column([4.0, 0.0]))
    leak = torch.exp(torch.tensor(-1.0))
    first = 4 * (1 - leak)
    assert s.flatten().tolist() == [2, 0]
    torch.testing.assert_close(v.flatten()[0], leak * (first - 2))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_sinabs_bit_for_bit(kind: dict) -> None:
    layer = neurons.make(**kind)
    x = torch.randn(7, 5, 3, 4, 6) * 1.5
    ours, v = neurons.run("spike", layer, x)
    layer.batch_size = 5
    theirs = layer(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (5, 7)).transpose(0, 1)  # T B -> (B T) -> T B
    assert torch.equal(ours, theirs)
    assert torch.equal(v, layer.v_mem)


@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize("kind", [k for k in KINDS if k.get("reset_fn") != "zero"])
def test_fused_equals_stepwise(kind: dict, straight: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = neurons.make(**kind)
    x = (torch.randn(6, 4, 3, 17, 29) * 1.2).requires_grad_()  # more than one block
    v0 = torch.randn(4, 3, 17, 29).requires_grad_()
    assert fused.supports(layer, x)
    found = []
    for allowed in (True, False):
        if not allowed:
            monkeypatch.setattr(fused, "supports", lambda *_: False)
        s, v = neurons.run("spike", layer, x, v0, straight_through=straight)
        weights = torch.linspace(-1, 1, s.numel()).view(s.shape)
        found.append((s, v, *grad((s * weights).sum() + (v * v).sum(), (x, v0))))
    a, b = found
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    torch.testing.assert_close(a[2], b[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(a[3], b[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", ["fused", "stepwise"])
@pytest.mark.parametrize("observed", [None, False, True], ids=["own", "counts", "states"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_without_time_each_step_has_the_gradient_of_a_step_alone(
    kind: dict, observed: bool | None, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "stepwise":
        monkeypatch.setattr(fused, "supports", lambda *_: False)
    layer = neurons.make(**kind)
    x = (torch.randn(5, 4, 3, 7, 9) * 1.2).requires_grad_()
    states = torch.randn(x.shape) if observed else None
    seen = None if observed is None else Observation(torch.randint(0, 3, x.shape).float(), states)
    s, v = neurons.run("spike", layer, x, observed=seen, through_time=False)
    weights = torch.linspace(-1, 1, s.numel()).view(s.shape)
    (found,) = grad((s * weights).sum() + (v * v).sum(), x)
    state, expected = None, []
    for t in range(5):
        one = x[t : t + 1].detach().requires_grad_()
        at = (
            None if seen is None else Observation(seen.counts[t : t + 1], None if states is None else states[t : t + 1])
        )
        s1, state = neurons.run("spike", layer, one, state, at)
        value = (s1 * weights[t : t + 1]).sum() + ((state * state).sum() if t == 4 else 0)
        expected.append(grad(value, one)[0])
        state = state.detach()
        assert torch.equal(s1, s[t : t + 1])
    assert torch.equal(found, torch.cat(expected))


def test_backward_is_the_hand_written_recursion(stepwise: None) -> None:
    """methods: delta[t] = dL/ds psi + delta[t+1] (1 - theta psi), where nothing is clipped."""
    layer = neurons.make(min_v_mem=None).double()
    layer.spike_threshold.data = layer.spike_threshold.double()
    x = torch.randn(6, 3, 8, dtype=torch.float64).requires_grad_()
    s, _ = neurons.run("spike", layer, x)
    g = torch.randn_like(s)
    (found,) = grad((s * g).sum(), x)
    u = torch.zeros_like(x)
    v = torch.zeros_like(x[0])
    for t in range(6):
        u[t] = v + x[t].detach()
        v = u[t] - s[t].detach()
    delta, expected = torch.zeros_like(v), torch.zeros_like(x)
    for t in reversed(range(6)):
        psi = layer.surrogate_grad_fn(u[t], layer.spike_threshold)
        delta = g[t] * psi + delta * (1 - psi)
        expected[t] = delta
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_state_carries_over_a_cut() -> None:
    layer = neurons.make()
    x = torch.randn(8, 2, 5)
    whole, v_whole = neurons.run("spike", layer, x)
    first, v = neurons.run("spike", layer, x[:3])
    second, v = neurons.run("spike", layer, x[3:], v)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(v, v_whole)


@pytest.mark.parametrize("path", ["stepwise", "fused"])
@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_observing_the_same_changes_nothing(
    kind: dict, straight: bool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that sees exactly what the twin does gives the plain gradient, to the bit, at clipped neurons too."""
    if path == "stepwise":
        monkeypatch.setattr(fused, "supports", lambda *_: False)
    layer = neurons.make(**kind)
    x = (torch.randn(5, 2, 700) * 2).requires_grad_()
    s, v = neurons.run("spike", layer, x, straight_through=straight)
    states = torch.stack([neurons.run("spike", layer, x[: t + 1])[1] for t in range(5)]).detach()
    weights = torch.randn_like(s)
    (plain,) = grad((s * weights).sum() + (v * v).sum(), x)
    for seen_states in (states, None):
        s2, v2 = neurons.run(
            "spike", layer, x, observed=Observation(s.detach(), seen_states), straight_through=straight
        )
        (seen,) = grad((s2 * weights).sum() + (v2 * v2).sum(), x)
        assert torch.equal(s2, s)
        assert torch.equal(v2, v)
        assert torch.equal(seen, plain)


@pytest.mark.parametrize("straight", [False, True])
@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("kind", [k for k in KINDS if k.get("reset_fn") != "zero"], ids=str)
def test_fused_observes_as_stepwise(
    kind: dict, with_states: bool, straight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = neurons.make(**kind)
    x = (torch.randn(6, 4, 3, 17, 29) * 1.2).requires_grad_()
    counts = torch.randint(0, 4, x.shape).float()
    observed = Observation(counts, torch.randn(x.shape) if with_states else None)
    found = []
    for allowed in (True, False):
        if not allowed:
            monkeypatch.setattr(fused, "supports", lambda *_: False)
        s, v = neurons.run("spike", layer, x, observed=observed, straight_through=straight)
        weights = torch.linspace(-1, 1, s.numel()).view(s.shape)
        found.append((s, v, *grad((s * weights).sum() + (v * v).sum(), x)))
    a, b = found
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[0], counts)
    assert torch.equal(a[1], b[1])
    torch.testing.assert_close(a[2], b[2], rtol=1e-4, atol=1e-4)


def test_observed_values_are_exact_and_the_gradient_is_the_twins() -> None:
    layer = neurons.make()
    x = torch.randn(4, 2, 3).requires_grad_()
    counts, states = torch.randint(0, 5, (4, 2, 3)).float(), torch.rand(4, 2, 3)
    s, v = neurons.run("spike", layer, x, observed=Observation(counts, states))
    assert torch.equal(s, counts)
    assert torch.equal(v, states[-1])
    (found,) = grad(s[-1].sum(), x)
    psi = layer.surrogate_grad_fn(states[-1] + counts[-1], layer.spike_threshold)
    torch.testing.assert_close(found[-1], psi)


def test_substitute_is_the_observed_value_to_the_last_bit() -> None:
    twin = torch.tensor([1e8, 0.1, -3.7]).requires_grad_()
    observed = torch.tensor([0.3, 0.7, 1.1])
    out = neurons.substitute(twin, observed)
    assert torch.equal(out, observed)
    assert not torch.equal(twin + (observed - twin).detach(), observed)  # the usual trick is not exact
    assert grad((out * observed).sum(), twin)[0].tolist() == observed.tolist()


def test_checkpoint_holds_no_state() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, bias=False), neurons.make(), torch.nn.BatchNorm2d(2))
    net(torch.rand(4, 1, 5, 5) * 9)
    weights = neurons.weights_of(net)
    assert not [name for name in weights if "v_mem" in name and "min_v_mem" not in name]
    assert "2.running_mean" in weights
    fresh = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, bias=False), neurons.make(), torch.nn.BatchNorm2d(2))
    neurons.load_weights(fresh, weights)
    assert all(torch.equal(weights[name], value) for name, value in neurons.weights_of(fresh).items())


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(RequestError, match=r"0\.weight should have shape \(2, 1, 3, 3\), found \(4, 1, 3, 3\)"):
        neurons.load_weights(_one(2), neurons.weights_of(_one(4)))


def _one(features: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Conv2d(1, features, 3, bias=False))


def test_lif_without_time_constant_is_refused() -> None:
    with pytest.raises(RequestError, match="tau_mem=null"):
        neurons.make(kind="lif")


def test_layers_are_sinabs_layers() -> None:
    assert isinstance(neurons.make(), sl.IAFSqueeze)
    assert isinstance(neurons.make(kind="lif", tau_mem=2.0), sl.LIFSqueeze)


def test_neurons_start_at_v_init() -> None:
    layer = neurons.make(v_init=0.5, min_v_mem=-1.0)
    s, v = neurons.run("n", layer, column([0.25, 0.25, 0.75]))
    assert s.flatten().tolist() == [0.0, 1.0, 0.0]
    assert float(v) == 0.75
    rate = 0.3125  # the count is rounded, not floored (methods: theta/2)
    s, _ = neurons.run("n", layer, column([rate] * 5))
    assert float(s.sum()) == math.floor(5 * rate + 0.5)
