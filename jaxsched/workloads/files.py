"""Bytes of files, plain or compressed, read piece by piece, with errors that say what to do."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from jaxsched.machine.faults import in_one_line

Path = str | os.PathLike[str]

BLOCK_BYTES = 1 << 24
"""Bytes that are read at once."""

MAX_LINE = 1 << 24
"""Bytes of a line, at most."""

MAX_DOCUMENT = 1 << 27
"""Bytes of JSON in one piece, and of compressed Parquet, at most."""


class Bytes:
    """A file, read from the beginning; what was looked at ahead comes again."""

    def __init__(self, path: str, file: Any, kind: str) -> None:
        self.path, self._file, self._kind = path, file, kind
        self._held = b""

    def read(self, size: int) -> bytes:
        """The next bytes: fewer than `size` only at the end."""
        held = self._held[:size]
        self._held = self._held[size:]
        return held + self._more(size - len(held))

    def ahead(self, size: int) -> bytes:
        """The next bytes, which stay: one more than `size` if there are so many."""
        self._held += self._more(size + 1 - len(self._held))
        return self._held[: size + 1]

    def whole(self) -> Any:
        """What pyarrow can seek in."""
        if not self._kind:
            return self.path
        data = self.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            size = f"{MAX_DOCUMENT >> 20} MB"
            raise ValueError(f"{self.path}: Parquet of more than {size} inside {self._kind}; "
                             "decompress it first")  # fmt: skip
        return pa.BufferReader(data)

    def _more(self, size: int) -> bytes:
        pieces = []
        try:
            while size > 0 and (piece := self._file.read(size)):
                pieces.append(piece)
                size -= len(piece)
        except _DAMAGE as error:
            if not self._kind:
                raise
            what = f"the {self._kind} file is damaged or ends early"
            raise ValueError(f"{self.path}: {what} ({error})") from None
        return b"".join(pieces)


_DAMAGE = (EOFError, OSError, RuntimeError, ValueError, zlib.error, lzma.LZMAError,
           zipfile.BadZipFile, pa.ArrowException)  # fmt: skip


def _member(file: Any, path: str) -> Any:
    """The one file in a zip archive."""
    try:
        archive = zipfile.ZipFile(file)
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        if "[Content_Types].xml" in names:
            raise ValueError(f"{path}: an office file; expected CSV, JSON lines or Parquet")
        if len(names) != 1:
            some = ", ".join(names[:3])
            found = f"a zip archive of {len(names)} files ({some}{', …' * (len(names) > 3)})"
            raise ValueError(f"{path}: {found}; expected one file in it, or give one of them")
        return archive.open(names[0])
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{path}: the zip file is damaged or locked ({error})") from None


def _arrow(kind: str) -> Callable[[Any, str], Any]:
    return lambda file, path: pa.CompressedInputStream(pa.PythonFile(file, "r"), kind)


COMPRESSED: dict[str, tuple[bytes, Callable[[Any, str], Any]]] = {
    "gzip": (b"\x1f\x8b", lambda file, path: gzip.GzipFile(fileobj=file)),
    "bzip2": (b"BZh", lambda file, path: bz2.BZ2File(file)),
    "xz": (b"\xfd7zXZ\x00", lambda file, path: lzma.LZMAFile(file)),  # noqa: SIM115
    "zstd": (b"\x28\xb5\x2f\xfd", _arrow("zstd")),
    "lz4": (b"\x04\x22\x4d\x18", _arrow("lz4")),
    "zip": (b"PK\x03\x04", _member),
}
"""Kinds of compression: how such a file begins, and (file, path) -> what is in it."""

OTHERS = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"SQLite format 3": "an SQLite database",
    b"ARROW1": "an Arrow file",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x9d": "a file of compress",
    b"%PDF": "a PDF",
}
"""How some files begin that are not read, and what they are."""


def opened(path: Path) -> Bytes:
    """Opens a file, decompressing it if it is compressed.

    Raises:
      ValueError: If it is of a kind that is not read.
      OSError: If it cannot be read; the text is a sentence.
    """
    name = os.fspath(path)
    try:
        file: Any = open(name, "rb", buffering=1 << 20)  # noqa: SIM115 (it is read later)
        start = file.peek(512)[:512]
    except OSError as error:
        raise type(error)(in_one_line(error)) from None
    for kind, (magic, inside) in COMPRESSED.items():
        if start.startswith(magic):
            content = Bytes(name, inside(file, name), kind)
            _refuse(name, content.ahead(512), f" inside {kind}")
            return content
    _refuse(name, start, "")
    return Bytes(name, file, "")


def _refuse(name: str, start: bytes, where: str) -> None:
    found = next((what for magic, what in OTHERS.items() if start.startswith(magic)), None)
    if start[257:262] == b"ustar":
        found = "a tar archive"
    if found:
        readable = f"CSV, JSON lines or Parquet, plain or in {', '.join(COMPRESSED)}"
        raise ValueError(f"{name}: {found}{where}; expected {readable}")
