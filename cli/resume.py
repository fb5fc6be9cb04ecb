"""``cilspl run resume=RUN``: go on with a run that was cut off, in its folder and in its MLflow run.

The run's own config counts, as its folder has it. Beside it may be typed what does not change the results (threads,
device, tracking), and for a finished run more epochs.
"""

from __future__ import annotations

import logging.config
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError

if TYPE_CHECKING:
    from cil_spl.results.runs import Run

WORD = "resume="
_NONE: Any = object()


def asked_for(argv: Sequence[str]) -> str | None:
    """The run that ``resume=`` names, if it stands among the words."""
    named = [word.lstrip("+").removeprefix(WORD) for word in argv if word.lstrip("+").startswith(WORD)]
    if not named:
        return None
    name = named[-1].strip("'\"")
    if name in ("", "null"):
        raise RequestError(f"resume={name}: name a run, by its folder or its MLflow id")
    if any(word in ("-m", "--multirun") for word in argv):
        raise RequestError(f"resume={name}: a sweep cannot be resumed by it; name one run, without -m")
    return name


def main(name: str, argv: Sequence[str]) -> int:
    """Go on with the run ``name``; ``argv`` are the words of the command line. Returns the exit code."""
    from cil_spl.cli.compose import extensions_of
    from cil_spl.cli.run import carry_out, show
    from cil_spl.results import runs
    from cil_spl.results.folder import refuse_links
    from cil_spl.results.resumption import settle_left

    run = runs.find(name)
    refuse_links(run.folder)
    if settle_left(run.folder):
        run = runs.read(run.folder)
    words = [word for word in argv if not word.lstrip("+").startswith(WORD)]
    typed = typed_values(words, "resume=")
    cfg = _config_of(run, typed)
    extensions = extensions_of(cfg, words, os.getcwd())  # the folder's own list allows nothing by itself
    epochs = run.info["params"].get("trainer.epochs")
    if run.status == "finished" and typed.get("trainer.epochs", epochs) == epochs:
        if typed:
            from cil_spl import schema

            schema.check_config(cfg, extensions)
        print(f"{run.folder} is finished; {_how_to_extend(run, epochs)}")
        show(run.folder)
        return 0
    _log_to(run.folder)
    return carry_out(cfg, run.folder, extensions, resume=True)


def _how_to_extend(run: Run, epochs: int) -> str:
    from cil_spl.base import locks

    begun = run.info.get("extension")
    if begun is None:
        return f"trainer.epochs=N with more than {epochs} epochs extends it"
    if locks.is_held(run.folder):
        return f"its extension to {begun['epochs']} epochs is going on"
    return f"trainer.epochs={begun['epochs']} goes on with its extension, which was cut off"


def _config_of(run: Run, typed: dict[str, Any]) -> Any:
    """The run's config with what is typed beside it.

    Raises:
        RequestError: the run cannot go on, or what is typed would make it another run.
    """
    from omegaconf import OmegaConf

    from cil_spl import schema
    from cil_spl.results import store
    from cil_spl.results.folder import MAY_DIFFER, may_differ

    if run.info.get("refused"):
        raise RequestError(f"resume={run.folder}: it was refused before it began; start it anew by `cilspl run`")
    if run.status == "running":
        raise RequestError(
            f"resume={run.folder}: a process is still working at the run; wait until it has ended, or stop it "
            "(Ctrl-C, SIGTERM) and resume it then"
        )
    cfg = schema.known_part(run.config())
    changed = []
    for key, value in typed.items():
        had = _had(cfg, key)
        if OmegaConf.is_dict(had) and value == had.get("name"):  # method=bptt names a group's choice
            continue
        had = OmegaConf.to_container(had) if OmegaConf.is_config(had) else had
        extends = key == "trainer.epochs" and run.status == "finished" and _is_more(value, had)
        if value == had or extends or (had is not _NONE and may_differ(key)):
            set_value(cfg, key, value)
        else:
            named = had.get("name") if isinstance(had, dict) else had
            has = "no such key" if had is _NONE else shown(named)
            changed.append(f"{key}={shown(value)} (the run has {has})")
    if changed:
        raise RequestError(
            f"resume={run.folder}: {', '.join(changed)}: a run goes on as it began; beside resume= may be typed "
            f"{', '.join(MAY_DIFFER)}, tracking.*, and for a finished run a larger trainer.epochs. "
            "For another run that begins from its weights use start_from"
        )
    if OmegaConf.select(cfg, "tracking.enabled") and "tracking.uri" not in typed:
        named = OmegaConf.select(cfg, "tracking.uri")
        cfg.tracking.uri = store.own_store(run.folder, named, f"cilspl run resume={run.folder} tracking.uri=")
    return cfg


def _had(cfg: Any, key: str) -> Any:
    """What the run's config has under a key; ``_NONE`` where it has no such key."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.select(cfg, key, default=_NONE)
    except OmegaConfBaseException:  # a name below a list
        return _NONE


def set_value(cfg: Any, key: str, value: Any) -> None:
    """Change a value of the config.

    Raises:
        RequestError: the key lies below something that has no keys.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parent = key.rpartition(".")[0]
    if parent and not OmegaConf.is_dict(_had(cfg, parent)):
        raise RequestError(f"{key}={shown(value)}: {parent} has no keys below it; `cilspl run --cfg job` lists all")
    try:
        OmegaConf.update(cfg, key, value)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise RequestError(f"{key}={shown(value)}: cannot be set ({str(error).splitlines()[0]})") from None


def _is_more(value: Any, had: Any) -> bool:
    return isinstance(value, int) and isinstance(had, int) and value > had


def typed_values(words: Sequence[str], beside: str) -> dict[str, Any]:
    """``key=value`` words as values; ``beside`` is what they are typed with.

    Raises:
        RequestError: a word is no such thing, or stands for several values.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    found: dict[str, Any] = {}
    for word in words:
        if word.startswith("-"):
            raise RequestError(f"{word}: beside {beside} only key=value can be typed; leave it out")
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            raise RequestError(f"{word}: beside {beside} only key=value can be typed ({error})") from None
        if override.is_hydra_override():
            raise RequestError(f"{word}: beside {beside} no setting of Hydra can be typed; leave it out")
        if override.is_delete() or override.is_sweep_override():
            raise RequestError(f"{word}: beside {beside} only key=value can be typed, with one value")
        package = "" if override.package is None else f"@{override.package}"
        found[override.key_or_group + package] = override.value()
    return found


def _log_to(folder: Path) -> None:
    """The log of a run as Hydra sets it up, at the end of what the run's file holds."""
    from omegaconf import OmegaConf

    text = (files("cil_spl.conf") / "hydra" / "job_logging" / "cilspl.yaml").read_text(encoding="utf-8")
    config: Any = OmegaConf.to_container(OmegaConf.create(text))
    config["handlers"]["file"]["filename"] = str(folder / "run.log")
    logging.config.dictConfig(config)
