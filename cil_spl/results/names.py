"""Names of runs: by the method, what differs from the defaults or within a sweep, and the seed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

LONGEST = 80
# Where things lie and what works at them tells no run from another; the rest has a place of its own in the name.
_LEFT_OUT = re.compile(r"(hydra|tracking)\b|extensions$|name$|\w+\.(root|download|threads)$")


_TIME = re.compile(r"\d\d-\d\d-\d\d-\d+-")  # that a run's folder begins with


def run_name(method: str, seed: object, typed: str) -> str:
    """``bptt_lr-0.01_s0``: the method, what was typed beside it, the seed.

    Args:
        typed: the overrides as Hydra joins them: ``frames.bins=4,method=bptt``.
    """
    words = re.split(r",(?=[+~]*[\w./@]+=)", typed) if typed else []
    pairs = [pair for pair in map(_pair, words) if pair[0] not in ("method", "seed")]
    return _joined([_plain(str(method)), *_parts(pairs), f"s{seed}"])


def without_time(folder: str) -> str:
    """The name of a run's folder without the time that it begins with."""
    return _TIME.sub("", folder, count=1)


def sweep_name(keys: Iterable[str]) -> str:
    """``method_lr_seed``: what a sweep is over."""
    return _joined(_plain(key.rpartition(".")[2]) for key in keys)


def job_names(jobs: Sequence[Sequence[str]], fixed: Iterable[str]) -> list[str]:
    """A name for each job of a sweep, by the words that are not the same in all; no two alike.

    Args:
        jobs: the overrides of each.
        fixed: the overrides that were typed; those without commas stand in every job.
    """
    fixed = set(fixed)
    names: list[str] = []
    for words in jobs:
        parts = _parts([_pair(word) for word in words if word not in fixed]) or _parts(list(map(_pair, words)))
        name = _joined(parts) if parts else f"{len(names)}"
        twice = sum(other == name or re.fullmatch(re.escape(name) + r"~\d+", other) is not None for other in names)
        names.append(f"{name}~{twice + 1}" if twice else name)
    return names


def _pair(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+").partition("=")
    return key, value


def _parts(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """One part for each key: of a choice its value, of a setting the end of its key and its value; the seed last."""
    pairs = [(key, value) for key, value in pairs if not _LEFT_OUT.match(key)]
    ends = [key.rpartition(".")[2] for key, _ in pairs]
    parts, seeds = [], []
    for (key, value), end in zip(pairs, ends, strict=True):
        text = _plain(value)
        if key == "seed":
            seeds.append(f"s{text}")
        elif "." not in key and not key.startswith("~"):
            parts.append(text)
        else:
            parts.append(f"{_plain(key if ends.count(end) > 1 else end)}-{text}")
    return parts + seeds


def _plain(text: str) -> str:
    """As part of a file's name that needs no quotes in a shell, an address or an override."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-") or "none"


def _joined(parts: Iterable[str]) -> str:
    name = "_".join(parts)
    if len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return name.encode()[: LONGEST - 9].decode(errors="ignore") + "-" + digest
