"""``cilspl predict`` with recordings that people bring."""

from __future__ import annotations

import numpy as np
import pytest

from cil_spl import pipeline
from cil_spl.base import memory
from cil_spl.cli.compose import composed
from cil_spl.data import datasets
from cil_spl.data.events import EVENT


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run, and a recording that it answers to."""
    folder = tmp_path_factory.mktemp("run") / "one"
    words = ["method=bptt", "trainer.epochs=2", "trainer.limit_batches=20", "tracking.enabled=false"]
    cfg = composed(words)
    pipeline.run(cfg, folder)
    events = np.array(datasets.load(cfg.dataset, None, seed=0)[0].test[0])
    events["t"] -= events["t"][0]
    return folder, events


def answer(said) -> list[str]:
    assert said.code == 0, said.err
    return [line for line in said.out.splitlines() if not line.startswith("input")]


def columns(events, order, start=0):
    wide = {name: events[name].astype(np.int64) + (start if name == "t" else 0) for name in EVENT.names}
    return np.stack([wide[name] for name in order], axis=1)


def test_times_of_any_clock_and_columns_in_any_order_give_one_answer(cilspl, here, trained):
    folder, events = trained
    np.save("plain.npy", events)
    expected = answer(cilspl("predict", str(folder), "plain.npy"))
    assert "decided at" in "\n".join(expected)
    for start in (10**9, 2**31 + 5, 2**32, 1_700_000_000_000_000):
        for order, separator, header in (
            ("yxtp", ",", "y,x,t,p"),
            ("txyp", " ", "timestamp x y polarity"),
            ("ptyx", ";", "pol;time (us);y;x"),
        ):
            np.savetxt("late.csv", columns(events, order, start), fmt="%d", delimiter=separator, header=header)
            assert answer(cilspl("predict", str(folder), "late.csv")) == expected
    out = np.empty(len(events), [("timestamp", "u8"), ("x", "u2"), ("y", "u2"), ("polarity", "?")])
    for name, field in (("timestamp", "t"), ("x", "x"), ("y", "y"), ("polarity", "p")):
        out[name] = events[field]
    out["timestamp"] += 10**9
    np.save("late.npy", out)
    assert answer(cilspl("predict", str(folder), "late.npy")) == expected


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "a.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': [('x','<i2')], 'shape': ((1,, }" + b" " * 80,
            "not a readable .npy",
        ),
        ("a.npy", b"", "not a readable .npy array"),
        ("a.npz", b"PK\x05\x06", "not a readable .npz archive"),
        ("a.csv", b"x,y,t_ms,p\n1,2,3,1\n", "its times are in ms"),
        ("a.txt", b"0.003811 96 133 0\n", "is not a whole number"),
        ("a.bin", b"1234", "not a whole number of 5-byte events"),
        ("a.aedat", b"", "allowed are .bin, .npy, .npz, .csv, .txt"),
    ],
)
def test_one_sentence_and_exit_code_2(cilspl, here, trained, name, content, why):
    (here / name).write_bytes(content)
    said = cilspl("predict", str(trained[0]), name)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"cilspl: {name}")
    assert why in said.err
    assert said.err.count("\n") == 1


def test_a_recording_beyond_the_memory(cilspl, here, trained, monkeypatch):
    np.save("a.npy", trained[1])
    monkeypatch.setattr(memory, "free_bytes", lambda: 100)
    said = cilspl("predict", str(trained[0]), "a.npy")
    assert said.code == 2
    assert "GB fit, a quarter of the memory that is free" in said.err
