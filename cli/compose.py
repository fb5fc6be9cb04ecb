"""A config composed as ``cilspl run`` would, without running."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cil_spl.base import fence
from cil_spl.base.errors import RequestError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed(
    overrides: Sequence[str], config_dir: str | None = None, config_name: str = "config", *, hydra_too: bool = False
) -> DictConfig:
    """The config of one run.

    Args:
        hydra_too: with Hydra's own settings, below ``hydra``.

    Raises:
        hydra.errors.HydraException: it cannot be composed.
        RequestError: a file from elsewhere sets what Hydra would import or run; or Hydra stumbles over the words.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from cil_spl.cli.hydra_fence import fenced
    from cil_spl.cli.words import quoted

    search = []
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise RequestError(f"--config-dir {config_dir}: no such folder")
        search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    GlobalHydra.instance().clear()
    with fenced(), initialize_config_module("cil_spl.conf", version_base="1.3", job_name="cilspl"):
        try:
            return compose(config_name, overrides=[*search, *map(quoted, overrides)], return_hydra_config=hydra_too)
        except (
            TypeError,
            AttributeError,
            LookupError,
            AssertionError,
            RecursionError,
            OSError,
        ) as error:  # of Hydra's own parts
            from cil_spl.cli.explain import explain

            raise RequestError(explain(error, overrides, config_dir)) from error


def every(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """The runs that overrides stand for: ``seed=0,1`` are two.

    Raises:
        hydra.errors.HydraException: an override cannot be read.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return BasicSweeper.split_arguments(parsed, None)[0]


def typed_words(overrides: Any) -> list[str]:
    """Words that were typed, of Hydra's config, which would have ``${…}`` in them resolved."""
    from omegaconf import OmegaConf

    words: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(word) for word in words]


def extensions_of(cfg: DictConfig, words: Sequence[str], folder: str) -> list[str]:
    """The modules of the user's own whose functions a config may name; from here on they are found in ``folder``, too.

    Args:
        cfg: a composed config.
        words: the overrides that were typed.
        folder: where the user stands.

    Raises:
        RequestError: the config lists a module that was neither typed nor is in ``conf/local/default.yaml``, or there
            is no such module.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parsed = OverridesParser.create().parse_overrides(list(words))
    typed: Any = next((o.value() for o in reversed(parsed) if o.key_or_group == "extensions" and not o.is_delete()), [])
    if not isinstance(typed, list):
        return fence.check_extensions(typed)
    named = [*typed, *fence.local_extensions()]
    listed = OmegaConf.select(cfg, "extensions")
    listed = OmegaConf.to_container(listed, resolve=True) if OmegaConf.is_config(listed) else listed
    fence.look_in(folder, named)
    allowed = fence.check_extensions(listed, named)
    return [module for module in allowed if module in (listed or ())]
