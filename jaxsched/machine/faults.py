"""Faults of files and interruptions, as sentences: the one place where they get their words."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GO_ON = "run the same command again to go on"
"""What an interrupted command says."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
"""Why a file is not written; libraries of other languages have the words only."""

READ_ONLY = (errno.EROFS, errno.EACCES)
"""Why nothing can be written in a place; what is there already is safe."""

_LONGEST = 200
"""Characters of what another library says."""


def in_one_line(error: BaseException) -> str:
    """What went wrong in one line: file and reason, without numbers of errors or type names."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start:,})"
    if isinstance(error, OSError) and error.errno and error.strerror:
        reason = next((why for why in map(os.strerror, DISK) if why in error.strerror), None)
        named = [os.fsdecode(x) for x in (error.filename, error.filename2) if x is not None]
        return ": ".join([*named[:1], reason or error.strerror])
    return str(error)


def interrupted(error: BaseException) -> bool:
    """Whether it is Ctrl-C, of which XLA makes an error of its own if it falls into a callback."""
    return isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes of what a disk refuses an OSError that names the file, whoever tried to write it."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        code = _code(error)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), os.fspath(path)) from None


@contextmanager
def reading(path: str | os.PathLike[str], what: str, advice: str = "") -> Iterator[None]:
    """Makes of whatever a damaged file leads to a ValueError that names it and says what to do.

    A file that cannot be read at all, such as one that is not there, stays an OSError.
    """
    try:
        yield
    except Exception as error:
        if interrupted(error) or isinstance(error, FileNotFoundError):
            raise
        if (code := _code(error)) is not None:
            raise OSError(code, os.strerror(code), os.fspath(path)) from None
        why = brief(in_one_line(error))
        more = f"; {advice}" if advice else ""
        raise ValueError(f"{os.fspath(path)}: damaged, or not {what} ({why}){more}") from None


def brief(text: str) -> str:
    """The first line of what another library says, and not too much of it."""
    line = re.sub(r"\s+", " ", text.strip().partition("\n")[0])
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def refuse_link(path: Path) -> None:
    """Refuses a symbolic link where a folder is written to, as its files would go elsewhere."""
    if path.is_symlink():
        raise ValueError(f"{path}: is a link to {os.readlink(path)}; expected a folder or nothing")


def _code(error: BaseException) -> int | None:
    """Why a disk refuses, if that is what the error says."""
    code = getattr(error, "errno", None)
    if code in DISK:
        return code
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return None
    return next((each for each in DISK if os.strerror(each) in str(error)), None)
