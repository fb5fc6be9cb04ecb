"""A NIR file as plain nodes and edges: HDF5, read and written as the format lays it out.

Not by the package nir: it reads whatever size a file claims, and what a file says depends on its version. nir 1.0.4
cannot read the key ``v_reset`` that 1.0.5 and later write, and those give neurons without it one of 0, though the file
was written when neurons subtracted. Here a node has the values that stand in the file.

Layout: ``version``; ``node/type`` (NIRGraph), ``node/edges`` [n, 2], ``node/nodes/NAME/type`` and the node's values.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.base.files import damaged, read_sealed, seal_of, write_whole
from cil_spl.base.npz import MOST_BYTES, check_file

MOST_VALUES_BYTES = 2**26  # of all values together: several times what a chip holds
MOST_NODES = 1000
WRITER = "cilspl"  # an attribute of the files that have a checksum behind them


@dataclass(frozen=True)
class Node:
    """A node: its type, and its values, each an array or a text, as they stand in the file."""

    kind: str
    values: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """What a file holds; ``version`` is that of the package nir that wrote it, as it stands there."""

    version: str
    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]


def read(path: Path) -> Graph:
    """The graph of a file.

    Raises:
        RequestError: no NIR file, damaged, or larger than what a chip could use; names the file.
    """
    import h5py

    check_file(path, MOST_BYTES, "a NIR file")
    try:
        content, checked = read_sealed(path)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error})") from None
    try:
        _check_heaps(content)
        with h5py.File(io.BytesIO(content), "r") as file:
            if WRITER in file.attrs and not checked:
                raise damaged(path)
            return _Reader(content).graph(file)
    except RequestError:
        raise
    except _Wrong as error:
        raise RequestError(f"{path}: {error}") from None
    except Exception as error:  # h5py raises anything over damaged bytes; nothing but reading happens above
        words = str(error).splitlines() or [type(error).__name__]
        raise RequestError(f"{path}: not a NIR file, or damaged ({words[0]})") from None


_HEAP, _HEAP_HEAD, _OBJECT_HEAD = b"GCOL\x01\0\0\0", 16, 16  # bytes


def _check_heaps(content: bytes) -> None:
    """Refuse a global heap, which holds the texts, whose objects do not follow each other: HDF5 reads it without end.

    Layout: signature, size of the heap 8; of each object number 2, count 2, 0 4, size 8 and as many bytes, in eights.
    Number 0 is the free room at the end, and its size is with its head.

    Raises:
        _Wrong: an object of no size, or one that ends beyond its heap.
    """
    begin = content.find(_HEAP)
    while begin >= 0:
        end = begin + int.from_bytes(content[begin + 8 : begin + _HEAP_HEAD], "little")
        at = begin + _HEAP_HEAD
        while at + _OBJECT_HEAD <= end:
            number = int.from_bytes(content[at : at + 2], "little")
            size = int.from_bytes(content[at + 8 : at + 16], "little")
            needed = size if number == 0 else _OBJECT_HEAD + -(-size // 8) * 8
            if end > len(content) or needed < _OBJECT_HEAD or at + needed > end:
                raise _Wrong(f"not a NIR file, or damaged (its heap at byte {begin} ends in the middle of a text)")
            at += needed
        begin = content.find(_HEAP, begin + 1)


class _Wrong(Exception):
    """What a file holds is not as NIR lays it out."""


class _Reader:
    """Reads values until :data:`MOST_VALUES_BYTES` are reached; sizes are known before values are read."""

    def __init__(self, content: bytes) -> None:
        self.content, self.left = content, MOST_VALUES_BYTES

    def graph(self, file: Any) -> Graph:
        version = self.text(file, "version", "the file")
        top = self.group(file, "node", "the file")
        kind = self.text(top, "type", "node")
        if kind != "NIRGraph":
            raise _Wrong(f"node: type={kind}; needed is NIRGraph")
        nodes = self.group(top, "nodes", "node")
        if not 0 < len(nodes) <= MOST_NODES:
            raise _Wrong(f"{len(nodes)} nodes; allowed are 1 to {MOST_NODES}")
        return Graph(version, {name: self.node(nodes, name) for name in nodes}, self.edges(top))

    def node(self, nodes: Any, name: str) -> Node:
        where = f"node {name}"
        group = self.group(nodes, name, "node/nodes")
        kind = self.text(group, "type", where)
        if kind == "NIRGraph":
            raise _Wrong(f"{where} (NIRGraph): a graph within the graph; write its nodes beside the others")
        where = f"{where} ({kind})"
        values = {key: self.value(group, key, where) for key in group if key not in ("type", "metadata")}
        metadata = {}
        if "metadata" in group:
            about = self.group(group, "metadata", where)
            metadata = {key: self.value(about, key, where) for key in about if self.is_value(about, key)}
        return Node(kind, values, metadata)

    def edges(self, top: Any) -> tuple[tuple[str, str], ...]:
        found = self.value(top, "edges", "node")
        if not isinstance(found, np.ndarray) or found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind != "O":
            raise _Wrong("node: edges: needed are pairs of node names")
        return tuple((_decoded(a, "edges"), _decoded(b, "edges")) for a, b in found)

    def group(self, parent: Any, key: str, where: str) -> Any:
        import h5py

        found = self.item(parent, key, where)
        if not isinstance(found, h5py.Group):
            raise _Wrong(f"{where}: {key} is a value; needed is a group")
        return found

    def item(self, parent: Any, key: str, where: str) -> Any:
        import h5py

        if key not in parent:
            raise _Wrong(f"{where}: {key} is missing")
        if not isinstance(parent.get(key, getlink=True), h5py.HardLink):
            raise _Wrong(f"{where}: {key} is a link to elsewhere, which is not followed")
        return parent[key]

    def is_value(self, parent: Any, key: str) -> bool:
        """Whether it can be read; of metadata, what other tools leave there does not matter."""
        import h5py

        return parent.get(key, getclass=True) is h5py.Dataset

    def text(self, parent: Any, key: str, where: str) -> str:
        found = self.value(parent, key, where)
        if not isinstance(found, str):
            raise _Wrong(f"{where}: {key} is no text")
        return found

    def check_lengths(self, texts: Any, where: str) -> None:
        """Refuse a text that says it is longer than the file: HDF5 takes as much memory, gigabytes, before it looks.

        Layout of each: its length 4, the address of its heap 8, its number there 4.
        """
        import h5py

        begin = texts.id.get_offset()
        if (
            begin is None or h5py.check_string_dtype(texts.dtype).length is not None
        ):  # beside the head, or of fixed size
            return
        lengths = np.frombuffer(self.content[begin : begin + 16 * texts.size].ljust(16 * texts.size, b"\xff"), "<u4")[
            ::4
        ]
        if lengths.size and int(lengths.max()) > len(self.content):
            raise _Wrong(f"{where} is damaged: a text of {lengths.max()} bytes, the file has {len(self.content)}")

    def value(self, parent: Any, key: str, where: str) -> Any:
        """An array of numbers, an array of bytes, or a single text."""
        import h5py

        found = self.item(parent, key, where)
        if not isinstance(found, h5py.Dataset):
            raise _Wrong(f"{where}: {key} is a group; needed is a value")
        if found.is_virtual or found.external:
            raise _Wrong(f"{where}: {key} lies in another file, which is not read")
        is_text = h5py.check_string_dtype(found.dtype) is not None
        if found.shape is None or not (is_text or found.dtype.kind in "iuf"):
            raise _Wrong(f"{where}: {key} is {found.dtype}; needed are numbers or a text")
        self.left -= found.size * max(found.dtype.itemsize, 1)
        if self.left < 0:
            raise _Wrong(
                f"{where}: {key} has the shape {found.shape}; the values of a file may take {MOST_VALUES_BYTES} bytes"
            )
        if is_text:
            self.check_lengths(found, f"{where}: {key}")
            return _decoded(found[()], key) if found.shape == () else found[()].astype(object)
        return np.asarray(found[()])


def _decoded(value: Any, where: str) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise _Wrong(f"{where}: {value!r} is no text in UTF-8") from None


def write(path: Path, version: str, nodes: Mapping[str, Node], edges: Sequence[tuple[str, str]]) -> None:
    """Write a file whole or not at all, with a checksum behind it, of which HDF5 takes no notice."""
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs[WRITER] = "a checksum follows"
        file["version"] = version
        file["node/type"] = "NIRGraph"
        file.create_dataset("node/edges", data=list(edges), dtype=h5py.string_dtype())
        for name, node in nodes.items():
            group = file.create_group(f"node/nodes/{name}")
            group["type"] = node.kind
            for key, value in node.values.items():
                group[key] = value
            for key, value in node.metadata.items():
                group[f"metadata/{key}"] = value
    content = memory.getvalue()
    with write_whole(path) as out:
        out.write(content + seal_of(content))
