"""Recordings ready for frames: counted from their start, and after the chip's pre-processing stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cil_spl.data import cache
from cil_spl.data.events import Recordings
from cil_spl.data.preprocess import Preprocess, preprocess_recordings
from cil_spl.data.times import begins_late, from_first_event


def prepared(
    parts: Mapping[str, Recordings], preprocess: Mapping[str, Any] | None, duration_us: int | None = None
) -> dict[str, Recordings]:
    """Sets of recordings by name, as the sensor gave them, ready for frames; those from the cache go through it again.

    Args:
        preprocess: the keys of ``dataset.preprocess``.
        duration_us: ``frames.duration_us``, see :mod:`cil_spl.data.times`.

    Raises:
        RequestError: the pre-processing is not allowed or does not go with the sensor.
    """
    settings = Preprocess.from_config(preprocess)
    late = any(begins_late(part, duration_us).any() for part in parts.values())
    identities = {name: cache.identity(part) for name, part in parts.items()}

    def make() -> dict[str, Recordings]:
        return {
            name: preprocess_recordings(from_first_event(part, duration_us), settings) for name, part in parts.items()
        }

    if (settings == Preprocess() and not late) or None in identities.values():
        return make()
    code = cache.code_fingerprint("events", "preprocess", *(["times"] if late else []))
    key = {"preprocess": asdict(settings), "of": identities, "code": code}
    return cache.load_or_make(key | ({"late_from_us": duration_us, "late": True} if late else {}), make)
