"""A config composed as ``cilspl run`` would, without running."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cil_spl.base.errors import RequestError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed(overrides: Sequence[str], config_dir: str | None = None, config_name: str = "config") -> DictConfig:
    """The config of one run.

    Raises:
        hydra.errors.HydraException: it cannot be composed.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    search = []
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise RequestError(f"--config-dir {config_dir}: no such folder")
        search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    GlobalHydra.instance().clear()
    with initialize_config_module("cil_spl.conf", version_base="1.3", job_name="cilspl"):
        return compose(config_name, overrides=[*search, *overrides])


def every(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """The runs that overrides stand for: ``seed=0,1`` are two.

    Raises:
        hydra.errors.HydraException: an override cannot be read.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return BasicSweeper.split_arguments(parsed, None)[0]
