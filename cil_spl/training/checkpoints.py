"""What a run keeps of its training: weights and everything else that training changes, in files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.base.files import read_sealed, without_checksum, write_sealed
from cil_spl.models import neurons
from cil_spl.models.net import Net

MOST_DEPTH, MOST_PARTS = 30, 1_000_000
CHECKPOINT_FORMAT = 2  # 1 had no checksum; it is read as well


class Stateful(Protocol):
    """Anything that can be saved and put back: tensors, numbers, strings, lists and dicts only."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Weights:
    """A network's weights as a stateful thing, without the neurons' states."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def state_dict(self) -> dict[str, Tensor]:
        return neurons.weights_of(self.net)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        neurons.load_weights(self.net, state)


def write_network(path: Path, net: Net) -> None:
    """A trained network's file: weights, and the plan that they belong to."""
    write_checkpoint(path, {"weights": neurons.weights_of(net), "plan": net.plan.as_dict()})


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write whole or not at all, with a checksum; ``torch.load`` reads it as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    archive = io.BytesIO()  # torch says a RuntimeError where a disk is full
    torch.save({"format": CHECKPOINT_FORMAT} | content, archive)
    write_sealed(path, lambda file: file.write(archive.getbuffer()))


def read_checkpoint(path: Path, *needs: str) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote; no code in the file is run.

    Args:
        needs: the parts that the reader takes from it, each a mapping; a file of another kind lacks one.

    Raises:
        RequestError: not a checkpoint, damaged, of another format, or of another kind.
    """
    try:
        archive, checked = read_sealed(path)
        _check_sizes(archive)
        content = torch.load(io.BytesIO(archive), weights_only=True, map_location="cpu")
        version = content["format"] if isinstance(content, dict) else None
        if type(version) is not int:
            raise ValueError("no format")
        _check_values(path, content)
    except RequestError:
        raise
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except Exception as error:  # torch raises anything over damaged bytes; nothing but reading happens above
        raise RequestError(f"{path}: not a checkpoint of cilspl, or damaged ({type(error).__name__})") from None
    if not 1 <= version <= CHECKPOINT_FORMAT:
        raise RequestError(f"{path}: format {version}; this version reads 1 to {CHECKPOINT_FORMAT}")
    if not checked:
        without_checksum(path, version, first=2)
    check_parts(path, content, *needs)
    return content


def check_parts(path: Path, content: dict[str, Any], *needs: str) -> None:
    """Refuse a checkpoint of another kind: one that lacks a part, each a mapping, that the reader takes from it.

    Raises:
        RequestError: says what it holds and what is needed.
    """
    lacks = [name for name in needs if not isinstance(content.get(name), dict)]
    if lacks:
        holds = ", ".join(name for name in content if name != "format") or "nothing"
        raise RequestError(
            f"{path}: a checkpoint of another kind: it holds {holds}, and {', '.join(needs)} "
            f"{'is' if len(needs) == 1 else 'are'} needed; take the file from a copy of the run"
        )


def _check_sizes(archive: bytes) -> None:
    """Refuse what torch.save does not write: it packs nothing, so that no part is larger than the file.

    Raises:
        ValueError: a part would be larger when unpacked.
        BadZipFile: no archive, as those of torch before 1.6.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        if sum(member.file_size for member in file.infolist()) > len(archive):
            raise ValueError("parts of it are packed")


def _check_values(path: Path, content: dict[Any, Any]) -> None:
    """Refuse what a checkpoint of ours never holds, and tensors that are larger than what the file has of them.

    Raises:
        RequestError: names the place and what is there.
    """
    waiting: list[tuple[str, int, Any]] = [("", 0, content)]
    n = 0
    while waiting:
        where, depth, value = waiting.pop()
        n += 1
        if depth > MOST_DEPTH or n > MOST_PARTS:  # or a part holds itself
            raise RequestError(f"{path}: {where} is deeper, or the file larger, than what a run keeps")
        if isinstance(value, dict | list | tuple):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{where}.{key}" if where else str(key), depth + 1, part) for key, part in parts]
        elif isinstance(value, Tensor):
            dense = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not dense or value.is_complex() or value.numel() * value.itemsize > value.untyped_storage().nbytes():
                raise RequestError(f"{path}: {where} is no plain tensor that the file holds whole")
        elif not isinstance(value, str | int | float | None):
            raise RequestError(f"{path}: {where} is {type(value).__name__}; needed are tensors, numbers and texts")


def check_weights(path: Path, weights: dict[str, Any]) -> dict[str, Tensor]:
    """A network's weights, from a file.

    Raises:
        RequestError: one is no tensor or holds what is no finite number, or a threshold is not above 0; names it.
    """
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise RequestError(
                f"{path}: weights: {name} is {type(value).__name__}; needed is a tensor. Take the file from a copy of "
                "the run"
            )
        if not bool(torch.isfinite(value).all()):
            raise RequestError(
                f"{path}: weights: {name} holds {float(value[~torch.isfinite(value)][0])}; needed are finite numbers: "
                "the training has diverged, or the file is damaged"
            )
        if name.rpartition(".")[2] == "spike_threshold" and not bool((value > 0).all()):
            raise RequestError(f"{path}: weights: {name} is {float(value.min()):g}; thresholds must be above 0")
    return weights
