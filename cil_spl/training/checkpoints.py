"""What a run keeps of its training: weights and everything else that training changes, in files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.base.files import read_sealed, without_checksum, write_sealed
from cil_spl.models import neurons
from cil_spl.models.net import Net

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
    write_sealed(path, lambda file: torch.save({"format": CHECKPOINT_FORMAT} | content, file))


def read_checkpoint(path: Path, *needs: str) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote; no code in the file is run.

    Args:
        needs: the parts that the reader takes from it, each a mapping; a file of another kind lacks one.

    Raises:
        RequestError: not a checkpoint, damaged, of another format, or of another kind.
    """
    try:
        archive, checked = read_sealed(path)
        content = torch.load(io.BytesIO(archive), weights_only=True, map_location="cpu")
        version = int(content["format"])
    except RequestError:
        raise
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except Exception as error:
        raise RequestError(f"{path}: not a checkpoint of cilspl, or damaged ({type(error).__name__})") from None
    if not 1 <= version <= CHECKPOINT_FORMAT:
        raise RequestError(f"{path}: format {version}; this version reads 1 to {CHECKPOINT_FORMAT}")
    if not checked:
        without_checksum(path, version, first=2)
    lacks = [name for name in needs if not isinstance(content.get(name), dict)]
    if lacks:
        holds = ", ".join(name for name in content if name != "format") or "nothing"
        raise RequestError(
            f"{path}: a checkpoint of another kind: it holds {holds}, and {', '.join(needs)} "
            f"{'is' if len(needs) == 1 else 'are'} needed; take the file from a copy of the run"
        )
    return content
