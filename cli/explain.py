"""Hydra's and OmegaConf's complaints in the user's words: key, value, what is allowed."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence

from cil_spl.base.annotations import shown
from cil_spl.base.errors import RequestError
from cil_spl.base.suggestions import close, nearest
from cil_spl.models.presets import PRESETS


def request_behind(error: BaseException | None) -> RequestError | None:
    """The RequestError that an error was raised from, where there is one (Hydra wraps what it calls)."""
    while error is not None:
        if isinstance(error, RequestError):
            return error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def explain(error: BaseException, overrides: Sequence[str], config_dir: str | None = None) -> str:
    """One message for an error of composing a config.

    Args:
        error: of Hydra or OmegaConf.
        overrides: the words of the command line, to name the value that was given.
        config_dir: where to look for groups besides the shipped ones.
    """
    request = request_behind(error)
    if request is not None:
        return str(request)
    text = _explained(error, overrides, config_dir).replace("\n", "\\n")
    return re.sub(r"[^\s:;,]{300,}", lambda word: f"{word[0][:60]}…", text)


def _explained(error: BaseException, overrides: Sequence[str], config_dir: str | None) -> str:
    text = "\n".join(str(e) for e in _chain(error) if str(e))
    config_dir = config_dir or _option(overrides, "--config-dir", "-cd")

    unread = getattr(error, "override", None)
    if unread is not None and getattr(error, "message", None) is not None:
        why = str(error.message).splitlines()[0].removeprefix("LexerNoViableAltException: ")  # type: ignore[attr-defined]
        return f"{unread}: cannot be read ({why}); quote what is special to the shell or to Hydra"

    missing = re.search(r"Could not find '([^']+)'", text)
    if missing and "Available options in" in text:
        options = re.findall(r"^\t([\w.-]+)$", text, re.M)
        group, _, name = missing[1].rpartition("/")
        return f"{group}={name}: no such choice; {meant_by(group, name, options)}"

    keyless = next((word for word in overrides if re.match(r"[+~]*[=@]", word)), None)
    if keyless is not None:
        return f"{keyless}: names no key; needs KEY=VALUE"

    if "Config group override must be a string or a list" in text or isinstance(error, TypeError):
        unnamed = _group_without_a_name(overrides) or (None if isinstance(error, TypeError) else " ".join(overrides))
        if unnamed is not None:
            return f"{unnamed}: needs the name of a choice; `cilspl ls` and `cilspl run --help` list them"

    there = re.search(r"Could not append to config. An item is already at '([^']+)'", text)
    if there:
        return f"{_given(there[1], overrides)}: there is a key {there[1]} already; it is set without the +"

    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[1].split("@")[0], overrides, config_dir)

    merging = re.search(r"Error merging override (\S+)", text)
    if merging:
        reason = [line for line in text.splitlines() if line and not line.startswith(("Error merging", " "))]
        return f"{merging[1]}: {reason[0] if reason else 'cannot be merged'}"

    unset = re.search(r"Environment variable '([^']+)' not found", text)
    if unset:
        word = next((w for w in overrides if unset[1] in w), f"${{oc.env:{unset[1]}}}")
        return f"{word}: there is no environment variable {unset[1]}; set it, or give the value"

    unresolved = re.search(r"Interpolation key '([^']+)' not found", text)
    if unresolved:
        deleted = next((w for w in overrides if re.fullmatch(rf"~{re.escape(unresolved[1])}(=.*)?", w)), None)
        if deleted is not None:
            return f"{deleted}: the run's folder is named by it, or another value is; it cannot be left out"
        word = next((w for w in overrides if "${" + unresolved[1] in w), "${" + unresolved[1] + "}")
        return f"{word}: there is no key {unresolved[1]}; `cilspl run --cfg job` lists all"

    return _of_hydra(error, text, overrides)


# What others call a choice of ours.
OTHER_NAMES: dict[str, dict[str, str]] = {
    "method": {
        "cil_spl": "cil_bptt",
        "surrogate_gradient": "bptt",
        "ann_to_snn": "conversion",
        "ann2snn": "conversion",
        "progressive_tandem": "ptl",
        "progressive_tandem_learning": "ptl",
        "tandem_learning": "tandem",
    },
    "model": {"snn": "bptt_snn", "progressive_tandem": "ptl"},
}
# What others call a key of ours, by its last part.
OTHER_KEYS = {
    "learning_rate": "lr",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_epochs": "epochs",
    "batch": "batch_size",
    "bs": "batch_size",
    "T": "bins",
    "time_steps": "bins",
    "timesteps": "bins",
    "n_steps": "bins",
    "wd": "weight_decay",
    "threshold": "spike_threshold",
    "v_threshold": "spike_threshold",
    "tau": "tau_mem",
}
# Names that are no choice of a group, but a value of a key in it.
ELSEWHERE: dict[str, tuple[str, Sequence[str]]] = {"model": ("model.preset", tuple(PRESETS))}


def meant_by(group: str, name: str, choices: Sequence[str]) -> str:
    """The end of a message about a choice that a group does not have: what was meant, and what there is.

    Args:
        group: of the config, ``model`` say.
        choices: what it has.
    """
    key, values = ELSEWHERE.get(group, ("", ()))
    others = {other: meant for other, meant in OTHER_NAMES.get(group, {}).items() if meant in choices}
    near = close(name, [*choices, *values, *others])
    if near is None or near in choices:
        return nearest(name, choices)
    meant = f"{key}={near}" if near in values else f"{group}={others[near]}"
    return f"did you mean {meant}? allowed are {', '.join(choices)}"


def _of_hydra(error: BaseException, text: str, overrides: Sequence[str]) -> str:
    """What Hydra itself stumbled over, or could not make."""
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, InstantiationException):  # of Hydra's own groups; all others have been checked
        word = next((w for w in overrides if re.match(r"[+~]*hydra\.", w)), "hydra")
        return f"{word}: Hydra cannot make it ({shown(' '.join(text.split()))})"

    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # Hydra looks for a file of this name
        return f"{max(overrides, key=len, default='')}: no such choice ({error.strerror})"

    full = next((e for e in _chain(error) if isinstance(e, OSError) and e.errno is not None), None)
    if full is not None:
        place = "" if full.filename is None else f"{full.filename}: "
        return (
            f"{place}the run's folder cannot be made or written ({full.strerror}); name another by hydra.run.dir, of a "
            "sweep by hydra.sweep.dir"
        )

    if type(error) is ValueError and re.match(r"Only one of|Expecting one|The --resolve", text):  # options of Hydra's
        return f"`{' '.join(overrides)}`: {text[0].lower()}{text[1:]}"

    if not isinstance(error, HydraException | OmegaConfBaseException):  # Hydra stumbled over it itself
        return (
            f"`{' '.join(overrides)}` cannot be read ({type(error).__name__}: {text}); HYDRA_FULL_ERROR=1 shows where"
        )

    lines = [line.strip() for line in text.splitlines()]
    ends = ("Config search path", "Search path", "Set the environment variable", "See https", "object_type")
    kept: list[str] = []
    for line in lines:
        if line.startswith(ends):
            break
        if line and line not in kept:
            kept.append(line)
    return "; ".join(line.rstrip(".:") for line in kept) or type(error).__name__


def _unknown_key(key: str, overrides: Sequence[str], config_dir: str | None) -> str:
    word = _given(key, overrides)
    if re.match(r"[^=]+=\s*{", word) and key in known_keys(_choices(overrides), config_dir):
        return f"{word}: keys are added to it with a +, as in '+{word}'"
    if key.startswith(("model.args.", "target.die.", "observer.die.")):
        return f"{word}: keys are added there with a +, as in +{word}"
    if key == "test_dataset":
        return f"{word}: choose one with dataset@test_dataset=NAME"
    return f"{word}: no such key; {_keys_near(key, overrides, config_dir)}"


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in found:
        found.append(step)
        step = step.__cause__
    return found


def _given(key: str, overrides: Sequence[str]) -> str:
    """The override as it was written, with its value."""
    return next((word for word in overrides if word.lstrip("+~").split("=")[0].split("@")[0] == key), key)


def _choices(overrides: Sequence[str]) -> list[str]:
    """The words that choose a group's file."""
    return [word for word in overrides if re.fullmatch(r"[\w@/]+=[\w/-]+", word)]


def _group_without_a_name(overrides: Sequence[str]) -> str | None:
    """The word that gives a group something else than a name, such as a number."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from cil_spl.schema import CALLED, GROUPS

    words = [word for word in overrides if re.split(r"[@=]", word.lstrip("+"))[0] in (*GROUPS, *CALLED, "experiment")]
    values = [OverridesParser.create().parse_override(word).value() for word in words]
    odd = [word for word, value in zip(words, values, strict=True) if not _is_choice(value)]
    return odd[0] if odd else None


def _is_choice(value: object) -> bool:
    """Whether it names one choice of a group, or several."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _option(words: Sequence[str], *names: str) -> str | None:
    for at, word in enumerate(words):
        head, _, tail = word.partition("=")
        if head in names:
            return tail or (words[at + 1] if at + 1 < len(words) else None)
    return None


def _keys_near(key: str, overrides: Sequence[str], config_dir: str | None) -> str:
    """What could have been meant: keys of the config with the groups that were chosen."""
    keys = known_keys(_choices(overrides), config_dir)
    parent, _, leaf = key.rpartition(".")
    whole = f"{parent}.{OTHER_KEYS[leaf]}" if parent and leaf in OTHER_KEYS else OTHER_KEYS.get(leaf, "")
    named = [known for known in keys if whole and (known == whole or (not parent and known.endswith(f".{whole}")))]
    if named:
        return f"did you mean {named[0]}? `cilspl run --cfg job` lists all"
    beside = sorted({k[len(parent) + 1 :].split(".")[0] for k in keys if k.startswith(f"{parent}.")} if parent else ())
    if beside:
        return nearest(leaf, beside, parent)
    tops = sorted({k.split(".")[0] for k in keys})
    meant = close(key, keys, cutoff=0.7) or next((k for k in keys if k.endswith(f".{key}")), None)
    if meant:
        return f"did you mean {meant}? `cilspl run --cfg job` lists all"
    return f"{nearest(key.split('.')[0], tops)}; `cilspl run --cfg job` lists all"


def known_keys(choices: Sequence[str], config_dir: str | None = None) -> list[str]:
    """Every key, with dots, of the config with these choices of groups, or of the default one."""
    from hydra.errors import HydraException
    from omegaconf import DictConfig

    from cil_spl.cli.compose import composed

    def walk(node: DictConfig, prefix: str) -> list[str]:
        found = []
        for key in map(str, node):
            child = node._get_node(key)
            found.append(f"{prefix}{key}")
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                found += walk(child, f"{prefix}{key}.")
        return found

    for words in (choices, ()):
        try:
            return walk(composed(words, config_dir=config_dir), "")
        except HydraException:  # one of the choices is the mistake, or the config itself is broken
            continue
    return []
