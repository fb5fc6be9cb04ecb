"""``KEY=VALUE``: keys of the real config with hostile values, to ``cilspl validate`` and ``cilspl run``."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

from tests.fuzz import tinyrun
from tests.fuzz.kinds import Case, Kind, Values

VALUES = (
    "[]",
    "nan", "inf", "-inf", "NaN", ".nan", "1e38", "-1e38", "1e308", "1e400", "1e-320", "-1", "0", "-0.0", "1", "2",
    "1.5", "0.1", "1e3", "0x10", "1_000", "1,5", "99999999999999999999", "9" * 400, "9" * 5000, "4294967296",
    "2147483648", "''", '""', "", " ", "null", "none", "None", "~", "true", "false", "yes", "'1'", '"0.5"', "'nan'",
    "[1]", "[0,0]", "[1,2,3]", "[nan]", "[inf,1]", "[-1,2]", "[null]", "['a']", "[[1]]", "[{a:1}]", "{}",
    "{a:1}", "{a:{b:[1]}}", "{1:2}", "{null:1}", "{'':1}", "[" * 60 + "]" * 60, "{a:" * 60 + "1" + "}" * 60,
    "[" + "1," * 3000 + "1]", "x", "x" * 10_000, "ü", "ß/ø", "\u202e", "💥", "日本",
    "a b", "a/b", "../../x", "/", "~/x",
    ".", "..", "-", "--", "-x", "%", "%s", "{}}", "]", "[1", "{a", "'a", '"a', "\\", "a\\'b", "a=b", "=", "==", "a:b",
    "a\tb", "a\nb", "\x1b[31mx", "\x7f", "$", "${", "${}", "${seed}", "${nope}", "${oc.env:NOPE}", "${oc.env:HOME}",
    "${oc.decode:x}", "${now:%Y}", "${hydra:job.name}", "${.x}", "${..seed}", "${method}", "${trainer.epochs}",
    "a${seed}", "\\${seed}", "???", "*", "?", "&a", "!x", "!!python/object:os.system", "@x", "#x", "|", "int(3.5)",
    "float(x)", "str(1)", "bool(x)", "json_str('{')", "choice(1,2)", "range(1,3)", "interval(0,1)", "glob(*)",
    "shuffle(1,2)", "sort(2,1)", "tag(a,1)", "extend_list(1)", "os.system", "cil_spl.methods.bptt.train", "cpu",
    "cuda", "cuda:99", "meta", "auto", "bptt", "digits", "speck", "software", "counts", "sqlite:///x/y/z.db",
    "http://user:secret@127.0.0.1:9", "ftp://x", "file:///dev/null", "1:2", "1h", "2026-01-01", "0b1", "0o7", "+1",
    "1.", ".5", "1e", "e", "- 1",
)  # fmt: skip
CHOICES = (
    (), (), ("method=bptt",), ("method=conversion",), ("method=sltt",), ("method=sltt_k",), ("method=ottt",),
    ("method=dsr",), ("method=opzo",), ("method=tandem",),
    ("method=ptl",), ("method=qcfs",), ("method=cil_conversion",), ("dataset=nmnist",), ("dataset=dvs_gesture",),
    ("dataset=digits", "target=software", "method=bptt"), ("dataset=cifar10", "target=software", "method=bptt"),
    ("dataset=mnist", "task=reconstruction", "target=software", "method=bptt"), ("target=accelerator",),
    ("model=cnn", "method=conversion"), ("dataset=saccade_mnist",), ("dataset@test_dataset=nmnist",),
    ("experiment=images_digits",), ("experiment=nmnist8",),
)  # fmt: skip
GROUPS = (
    "dataset", "dataset@test_dataset", "frames", "model", "neurons", "observer", "method", "quantize", "target",
    "task", "trainer", "tracking", "experiment", "local", "hydra/launcher", "hydra/sweeper", "hydra/output",
    "hydra/job_logging", "hydra/help", "nope",
)  # fmt: skip
OTHERS = (
    "hydra.run.dir", "hydra.sweep.dir", "hydra.job.name", "hydra.job.chdir", "hydra.searchpath",
    "hydra.output_subdir", "hydra.mode", "hydra.verbose", "hydra.callbacks.x", "hydra.launcher.n_jobs",
    "model.layers[0]", "dataset._target_", "method._target_", "method._args_", "method._partial_",
    "method._recursive_", "_target_", "defaults", "seed.x", "trainer.nope", "nope", "", "a..b", ".x", "x.", "ü", "0",
    "method.0", "model.neuron", "model.surrogate", "dataset.augment", "resume",
)  # fmt: skip
LONG = (
    "trainer.epochs",
    "frames.bins",
    "dataset.n",
    "trainer.batch_size",
    "quantize.calibration",
    "trainer.eval_batch_size",
    "model.layers",
    "resume",
)
LARGE = ("9", "1e3", "1_000", "4294967296", "2147483648", "0x10")


@lru_cache(maxsize=32)
def _keys(choices: tuple[str, ...]) -> tuple[str, ...]:
    from cil_spl.cli.explain import known_keys

    return tuple(sorted(known_keys(choices)))


def _word(rng: random.Random, choices: tuple[str, ...], values: tuple[str, ...] = VALUES) -> str:
    """One word."""
    draw = rng.random()
    key = rng.choice(_keys(choices)) if draw < 0.75 else rng.choice(GROUPS) if draw < 0.87 else rng.choice(OTHERS)
    value = rng.choice(values)
    form = rng.random()
    if form < 0.86:
        return f"{key}={value}"
    if form < 0.97:
        before = rng.choice(("+", "++", "~"))
        return f"{before}{key}" if before == "~" and rng.random() < 0.6 else f"{before}{key}={value}"
    return rng.choice(
        (
            key,
            f"{key}=",
            f"={value}",
            value,
            f"{key} = {value}",
            f"{key}@x={value}",
            f"{key}:{value}",
            f"--{key}",
            f"--{key}={value}",
        )
    )


def _validated(rng: random.Random, folder: Path) -> Case:
    choices = rng.choice(CHOICES)
    words = [*choices, *(_word(rng, choices) for _ in range(rng.choice((1, 1, 1, 2))))]
    return Case(" ".join(repr(word)[:200] for word in words), lambda: tinyrun.typed(folder, "validate", *words))


def _ran(rng: random.Random, folder: Path) -> Case:
    """A run of some seconds, with one word more; none that only makes it long."""
    while True:
        word = _word(rng, ("method=bptt",))
        key, _, value = word.lstrip("+~").partition("=")
        if key not in LONG and not value.startswith(LARGE) and not key.startswith("hydra/") and "sqlite" not in value:
            break
    words = [*tinyrun.WORDS, word]
    return Case(repr(word)[:200], lambda: tinyrun.typed(folder, "run", *words))


KINDS: list[tuple[Kind, int]] = [(Values("validate", _validated, tinyrun.lay_out), 1)]
RUNS: list[tuple[Kind, int]] = [(Values("run", _ran, tinyrun.lay_out), 1)]
