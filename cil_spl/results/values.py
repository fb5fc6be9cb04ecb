"""A run's configuration, metrics and times as plain values, the same in a folder and in the store."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LONGEST_TEXT = 5000  # MLflow takes 6,000 characters, older servers fewer


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"method": {"lr": 1}}`` → ``{"method.lr": 1}``. Lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def as_text(value: Any) -> str:
    """A parameter as MLflow keeps it: the same text from a folder and from the store."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    if len(text) > LONGEST_TEXT:  # told apart by its hash
        text = f"{text[:LONGEST_TEXT]}… sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return text


def plain(config: Any) -> dict[str, Any]:
    from omegaconf import DictConfig, OmegaConf

    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
    return dict(config)


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN and no infinity: they become null."""
    return {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}


def is_timing(name: str) -> bool:
    """Whether a metric says how long something took: no two runs agree on it."""
    return name.endswith("seconds")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_time(value: object) -> bool:
    """Whether it is a time as :func:`now` writes it, in the years that MLflow and files know."""
    try:
        return isinstance(value, str) and 0 < millis(value) < 1 << 45
    except (ValueError, OverflowError, OSError):
        return False


def millis(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1000)


def git_tags() -> dict[str, str]:
    """Commit of the checkout this package lies in; nothing for an installed copy."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not some other project's repository around us
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": str(dirty).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}
