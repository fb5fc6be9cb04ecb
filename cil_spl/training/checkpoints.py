"""What a run keeps of its training: weights and everything else that training changes, in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.models import neurons

CHECKPOINT_FORMAT = 1


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


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    torch.save({"format": CHECKPOINT_FORMAT} | content, new)
    new.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote; no code in the file is run.

    Raises:
        RequestError: not a checkpoint, or of another format.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        version = content["format"]
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except Exception as error:
        raise RequestError(f"{path}: not a checkpoint of cilspl, or damaged ({type(error).__name__})") from None
    if version != CHECKPOINT_FORMAT:
        raise RequestError(f"{path}: format {version}; this version reads {CHECKPOINT_FORMAT}")
    return content
