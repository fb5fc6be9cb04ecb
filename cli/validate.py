"""``cilspl validate``: compose and cross-check configs without running them."""

from __future__ import annotations

import argparse
import os

from cil_spl.cli.words import parsed, quoted


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cilspl validate",
        description="Compose a config as `cilspl run` would and check all that can be known before data is read: the "
        "config, the chip, where results go; without running. Commas stand for several runs, as in a sweep.",
    )
    parser.add_argument("overrides", nargs="*", help="as for `cilspl run`")
    parser.add_argument("--multirun", "-m", action="store_true", help="no difference: commas are taken as a sweep")
    parser.add_argument("--config-dir", "-cd", metavar="DIR", help="your own YAML groups")
    parser.add_argument("--config-name", "-cn", metavar="NAME", default="config")
    given = parsed(parser, argv)
    given.overrides = [quoted(word) for word in given.overrides]

    from hydra.errors import HydraException
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    from cil_spl.base.errors import RequestError
    from cil_spl.cli.compose import composed, every, extensions_of
    from cil_spl.cli.explain import explain
    from cil_spl.cli.hydra_fence import check_hydra_settings

    try:
        runs = every(given.overrides, given.config_dir)
        configs = [(words, composed(words, given.config_dir, given.config_name, hydra_too=True)) for words in runs]
        for _, cfg in configs:
            check_hydra_settings(cfg, several=given.multirun or len(configs) > 1)
            with open_dict(cfg):
                del cfg["hydra"]
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra's own, for model=1.5
        raise RequestError(explain(error, given.overrides, given.config_dir)) from error

    from cil_spl import schema

    named = [extensions_of(cfg, words, os.getcwd()) for words, cfg in configs]
    for (_, cfg), extensions in zip(configs, named, strict=True):
        schema.check_config(cfg, extensions)  # all of them before torch is imported for the first
    from cil_spl import pipeline

    for (words, cfg), extensions in zip(configs, named, strict=True):
        checked, _, warnings = pipeline.validate(cfg, extensions)
        names = [f"{group}={checked[group].name}" for group in ("method", "model", "dataset", "target")]
        print(f"valid: {' '.join(names)} seed={checked.seed}" + (f"   ({' '.join(words)})" if words else ""))
        for text in warnings:
            print(f"  ! {text}")
    return 0
