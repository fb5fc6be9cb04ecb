from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.augment_images import AugmentImages, augment_images

IMAGES = np.arange(1, 1 + 5 * 2 * 4 * 6, dtype=np.int32).reshape(5, 2, 4, 6)


def crops(image: np.ndarray, padding: int) -> set[bytes]:
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    return {
        padded[:, top : top + 4, left : left + 6].tobytes()
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


@given(st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_every_image_becomes_a_crop_of_its_own_mirrored_or_not(padding: int, flip: bool, seed: int) -> None:
    out = augment_images(IMAGES, AugmentImages(padding=padding, flip=flip), [(seed, b) for b in range(5)])
    assert (out.shape, out.dtype) == (IMAGES.shape, IMAGES.dtype)
    for image, changed in zip(IMAGES, out, strict=True):
        allowed = crops(image, padding)
        mirrored = np.ascontiguousarray(changed[:, :, ::-1]).tobytes()
        assert changed.tobytes() in allowed or (flip and mirrored in allowed)


def test_all_crops_and_both_sides_are_drawn() -> None:
    draws = [augment_images(IMAGES[:1], AugmentImages(padding=1, flip=True), [(s,)])[0].tobytes() for s in range(400)]
    assert len(set(draws)) == 18
    flipped = sum(
        augment_images(IMAGES[:1], AugmentImages(flip=True), [(s,)])[0].tobytes() != IMAGES[0].tobytes()
        for s in range(400)
    )
    assert 150 < flipped < 250


def test_the_draw_is_that_of_the_seed_and_of_no_neighbour() -> None:
    kind = AugmentImages(padding=3, flip=True)
    together = augment_images(IMAGES, kind, [(7, b) for b in range(5)])
    for b in range(5):
        np.testing.assert_array_equal(augment_images(IMAGES[b : b + 1], kind, [(7, b)])[0], together[b])
    # Turning the mirror on leaves the crops as they were.
    plain = augment_images(IMAGES, AugmentImages(padding=3), [(7, b) for b in range(5)])
    assert all((a == b).all() or (a[:, :, ::-1] == b).all() for a, b in zip(plain, together, strict=True))


def test_none_where_nothing_is_changed() -> None:
    assert AugmentImages.from_config(None) is None
    assert AugmentImages.from_config({"padding": 0, "flip": False}) is None
    assert AugmentImages.from_config({"flip": True}) == AugmentImages(flip=True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"padding": -1}, "dataset.augment.padding=-1: must be at least 0 and at most 64"),
        ({"flip": 2}, "dataset.augment.flip=2: needs true or false"),
        ({"shift": 1}, "dataset.augment.shift=1: no such key"),
    ],
)
def test_what_is_not_allowed_is_named(keys: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        AugmentImages.from_config(keys)
