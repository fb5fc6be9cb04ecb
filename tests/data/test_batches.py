from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl.base import memory
from cil_spl.base.errors import RequestError
from cil_spl.data.augment import Augment
from cil_spl.data.augment_images import AugmentImages
from cil_spl.data.batches import Batches, ahead, most_at_once
from cil_spl.data.events import EVENT, from_list
from cil_spl.data.options import Frames
from cil_spl.data.samples import Samples, from_arrays

FRAMES = Frames(bins=3)


def recordings(n=10, seed=0):
    rng = np.random.default_rng(seed)
    arrays = []
    for i in range(n):
        e = np.zeros(20 + 7 * i, EVENT)
        e["x"], e["y"], e["p"] = rng.integers(0, 8, len(e)), rng.integers(0, 6, len(e)), rng.integers(0, 2, len(e))
        e["t"] = np.sort(rng.integers(0, 1000, len(e)))
        arrays.append(e)
    return from_list(arrays, np.arange(n) % 3, (8, 6, 2), "abc")


def test_a_batch_holds_its_recordings():
    data = recordings()
    batches = list(Batches(data, 4, FRAMES).epoch(0))
    assert [len(b) for b in batches] == [4, 4, 2]
    for batch in batches:
        assert batch.frames.shape == (3, len(batch), 2, 6, 8)
        assert batch.frames.dtype == torch.float32
        assert batch.target.tolist() == data.target[batch.index].tolist()
        assert batch.mask.all()
        for b, i in enumerate(batch.index):
            np.testing.assert_array_equal(batch.events[batch.offsets[b] : batch.offsets[b + 1]], data[i])
            assert batch.frames[:, b].sum() == len(data[i])
            assert batch.edges_us[b, -1] == data[i]["t"][-1] + 1


def test_order_follows_seed_and_epoch():
    def order(seed, epoch, shuffle=True):
        loader = Batches(recordings(30), 4, FRAMES, shuffle=shuffle, seed=seed)
        return np.concatenate([b.index for b in loader.epoch(epoch)]).tolist()

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == list(range(30))
    assert len({tuple(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4
    assert order(0, 0, shuffle=False) == list(range(30))


def test_padding_is_masked_and_empty():
    *_, last = Batches(recordings(), 4, FRAMES, pad=True).epoch(0)
    assert last.mask.tolist() == [True, True, False, False]
    assert last.index.tolist() == [8, 9, -1, -1]
    assert last.frames.shape[1] == 4
    assert last.frames[:, 2:].sum() == 0
    assert last.offsets[2] == last.offsets[4] == len(last.events)
    assert (np.diff(last.edges_us) >= 0).all()


def test_drop_last_and_limit():
    data = recordings()
    assert [len(b) for b in Batches(data, 4, FRAMES, drop_last=True).epoch(0)] == [4, 4]
    assert [len(b) for b in Batches(data, 4, FRAMES, limit=1).epoch(0)] == [4]
    assert len(Batches(data, 4, FRAMES, limit=9)) == 3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(1, 7), st.integers(1, 4), st.booleans(), st.booleans())
def test_ranks_share_the_set(n, batch_size, world, pad, drop_last):
    data = recordings(n)
    if drop_last and n // world < batch_size:
        with pytest.raises(RequestError, match="batch_size"):
            Batches(data, batch_size, FRAMES, world=world, drop_last=True)
        return
    per_rank = [
        list(
            Batches(data, batch_size, FRAMES, shuffle=True, pad=pad, drop_last=drop_last, rank=rank, world=world).epoch(
                3
            )
        )
        for rank in range(world)
    ]
    sizes = [[len(b) for b in batches] for batches in per_rank]
    assert all(s == sizes[0] for s in sizes)  # ranks step together
    loader = Batches(data, batch_size, FRAMES, pad=pad, drop_last=drop_last, world=world)
    assert len(sizes[0]) == len(loader)
    seen = np.concatenate([b.index[b.mask.numpy()] for batches in per_rank for b in batches])
    assert len(set(seen.tolist())) == len(seen)
    if drop_last:
        assert sizes[0] == [batch_size] * (n // world // batch_size)
        assert all(b.mask.all() for batches in per_rank for b in batches)
    else:
        assert sorted(seen) == list(range(n))


def test_frames_show_the_augmented_events_and_no_other():
    data = recordings()
    kind = Augment(shift=2, drop=0.3, jitter_us=50)
    for epoch in (0, 1):
        for batch in Batches(data, 4, FRAMES, augment=kind, seed=5, pad=True).epoch(epoch):
            assert batch.frames.sum((0, 2, 3, 4)).tolist() == np.diff(batch.offsets).tolist()
            pixels = np.zeros((6, 8))
            np.add.at(pixels, (batch.events["y"], batch.events["x"]), 1)
            np.testing.assert_array_equal(batch.frames.sum((0, 1, 2)).numpy(), pixels)


def test_augmentation_follows_seed_epoch_and_recording_not_batch():
    data, kind = recordings(), Augment(drop=0.5)

    def events_of(i, batch_size, seed, epoch):
        for batch in Batches(data, batch_size, FRAMES, augment=kind, seed=seed, shuffle=True).epoch(epoch):
            for b in np.flatnonzero(batch.index == i):
                return batch.events[batch.offsets[b] : batch.offsets[b + 1]].tolist()
        return None

    assert events_of(7, 4, 0, 0) == events_of(7, 3, 0, 0)
    assert events_of(7, 4, 0, 0) != events_of(7, 4, 0, 1)
    assert events_of(7, 4, 0, 0) != events_of(7, 4, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"limit": 0}, "limit_batches=0"),
        ({"rank": 2, "world": 2}, "rank 2"),
        ({"batch_size": 11, "drop_last": True}, "batch_size=11"),
        ({"frames": Frames(bins=0)}, "bins=0"),
        ({"data": recordings(0)}, "set is empty"),
    ],
)
def test_bad_settings_name_the_key(arguments, names):
    with pytest.raises(RequestError, match=names):
        Batches(**{"data": recordings(), "batch_size": 4, "frames": FRAMES, **arguments})


def test_evaluation_takes_smaller_batches_where_memory_asks_for_it(monkeypatch):
    """Each recording gives the same, in the same order, whatever is at once."""
    data, one = recordings(), 4 * 3 * (2 * 6 * 8 + 4 * 100)  # bytes of a recording in three bins
    for fits, free in ((10, None), (10, 2 * 10 * one), (4, 2 * 5 * one - 1), (1, 2 * one), (1, 0)):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        assert most_at_once(10, 3, (2, 6, 8), 100) == fits
        batches = list(Batches(data, 10, FRAMES, layer_values=100).epoch(0))
        assert [len(batch) for batch in batches][:-1] == [fits] * (len(batches) - 1)
        assert np.concatenate([batch.index for batch in batches]).tolist() == list(range(10))
        whole = next(Batches(data, 10, FRAMES).epoch(0))
        assert torch.equal(torch.cat([batch.frames for batch in batches], dim=1), whole.frames)
        assert np.concatenate([batch.edges_us for batch in batches]).tolist() == whole.edges_us.tolist()


def test_training_batches_stay_as_large_as_they_were_asked_for(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    assert [len(batch) for batch in Batches(recordings(), 4, FRAMES).epoch(0)] == [4, 4, 2]


# --- samples ----------------------------------------------------------------------------------------------------------


def samples(n: int = 10) -> Samples:
    values = np.random.default_rng(0).integers(1, 256, (n, 2, 6, 8)).astype(np.uint8)
    return from_arrays(values, np.arange(n) % 3, "abc", scale=1 / 255)


@pytest.mark.parametrize("encode", [None, "repeat", "once"])
def test_a_batch_of_samples(encode):
    data = samples()
    *_, last = batches = list(Batches(data, 4, Frames(bins=3, encode=encode), pad=True).epoch(0))
    assert [len(b) for b in batches] == [4, 4, 4]
    for batch in batches:
        assert batch.events is batch.offsets is batch.edges_us is None
        assert batch.frames.shape == (3, 4, 2, 6, 8)
        assert batch.frames.dtype == torch.float32
        for b, i in enumerate(batch.index):
            value = data[i] if i >= 0 else np.zeros((2, 6, 8))
            later = value if encode != "once" else np.zeros_like(value)
            for t, expected in enumerate((value, later, later)):
                np.testing.assert_array_equal(batch.frames[t, b].numpy(), expected)
    assert last.mask.tolist() == [True, True, False, False]
    assert last.target.tolist() == [2, 0, 0, 0]
    with pytest.raises(TypeError, match="no events"):
        last.recorded()


def test_a_repeated_sample_is_in_memory_once():
    def held(bins):
        batch = next(Batches(samples(), 10, Frames(bins=bins)).epoch(0))
        return batch.frames.untyped_storage().nbytes()

    assert held(1) == held(100) == 10 * 2 * 6 * 8 * 4


def test_targets_that_are_no_classes_keep_their_shape():
    targets = np.arange(20.0).reshape(10, 2)
    data = from_arrays(np.ones((10, 1, 2, 2)), targets, None)
    *_, last = Batches(data, 4, Frames(), pad=True).epoch(0)
    assert last.target.dtype == torch.float32
    assert last.target.tolist() == [[16, 17], [18, 19], [0, 0], [0, 0]]


def test_augmented_images_follow_seed_epoch_and_image_not_batch():
    data, kind = samples(), {"padding": 2, "flip": True}

    def image(i, batch_size, seed, epoch, augment=kind):
        for batch in Batches(data, batch_size, Frames(bins=1), augment=augment, seed=seed, shuffle=True).epoch(epoch):
            for b in np.flatnonzero(batch.index == i):
                return batch.frames[0, b].tolist()
        return None

    assert image(7, 4, 0, 0) == image(7, 3, 0, 0) == image(7, 4, 0, 0, AugmentImages(padding=2, flip=True))
    assert len({str(image(7, 4, seed, epoch)) for seed in range(2) for epoch in range(3)}) > 3
    assert image(7, 4, 0, 0, None) == data[7].tolist()


@pytest.mark.parametrize(
    ("of", "frames", "message"),
    [
        (samples, Frames(encode="events"), r"frames\.encode=events: .*allowed are repeat, once, or null"),
        (recordings, Frames(encode="repeat"), r"frames\.encode=repeat: .*allowed are events, or null"),
        (recordings, Frames(encode="once"), r"frames\.encode=once"),
        (samples, Frames(by="count"), r"frames\.by=count: .*leave it at time"),
        (samples, Frames(duration_us=1000), r"frames\.duration_us=1000: .*leave it null"),
        (samples, Frames(encode="thrice"), r"frames\.encode=thrice"),
    ],
)
def test_frames_that_are_not_for_such_data(of, frames, message):
    with pytest.raises(RequestError, match=message):
        Batches(of(), 4, frames)
    assert next(Batches(recordings(), 4, Frames(encode="events")).epoch(0)).events is not None


def test_batches_made_ahead_are_the_same_and_their_errors_arrive() -> None:
    def few() -> Iterator[Any]:
        yield 1
        yield 2
        raise ValueError("no third")

    coming = ahead(few())
    assert [next(coming), next(coming)] == [1, 2]
    with pytest.raises(ValueError, match="no third"):
        next(coming)
    stopped = ahead(iter([1, 2, 3]))
    assert next(stopped) == 1
    stopped.close()  # waits for what was under way
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
