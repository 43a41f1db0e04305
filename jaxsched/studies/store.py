"""A folder of results: written atomically, one part at a time, under one configuration.

    FOLDER/manifest.json        configuration (as TOML text), versions, device
    FOLDER/parts/NAME.parquet   what is finished so far; each appears whole or not at all
    FOLDER/results.parquet      all of it, when everything is finished

Every Parquet file has the manifest in its schema metadata too, under "jaxsched." keys.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import difflib
import errno
import json
import os
import platform
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import jax
import jaxlib.version
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jaxsched._version import __version__
from jaxsched.machine import faults
from jaxsched.policies.files import digest
from jaxsched.toml import one_of

PREFIX = "jaxsched."

CHECKED: dict[str, Any] = {"write_page_checksum": True}
"""How Parquet is written: with checksums, so that a damaged file is noticed when it is read."""


AGAIN = "delete it to have it simulated again"
"""What to do about a damaged file."""


def versions() -> dict[str, str]:
    """Versions of everything that a result can depend on."""
    return {
        "jaxsched": __version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def device() -> str:
    """The devices that lanes run on, in words, such as "2 x cpu"."""
    devices = jax.local_devices()
    return f"{len(devices)} x {devices[0].device_kind}"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames: all of the file or none.

    OSError that names `path` if the disk refuses.
    """
    # Not the process alone: two hosts that share a folder may have equal ones.
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{path.name}")
    with faults.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text atomically; a file that has it already will do, on any disk."""
    data = text.encode()
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_parquet(path: Path, frame: pd.DataFrame, metadata: Mapping[str, str]) -> None:
    """Writes a data frame atomically, with texts in its schema metadata."""
    table = to_arrow(frame, metadata)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, **CHECKED))


def to_arrow(frame: pd.DataFrame, metadata: Mapping[str, str]) -> pa.Table:
    """The frame with texts in its schema metadata."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    texts = {f"{PREFIX}{key}": value for key, value in metadata.items()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **texts})


def read_parquet(
    path: Path,
    columns: Sequence[str] | None = None,
    advice: str = AGAIN,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Reads what `write_parquet` wrote: the data frame (or some columns of it) and the texts.

    ValueError if it has no such column, or the file is damaged; the text then ends in the advice.
    """
    with faults.reading(path, "a Parquet file", advice):
        there = pq.read_schema(path).names
    known_columns(columns, there)
    with faults.reading(path, "a Parquet file", advice):
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
        return table.to_pandas(), texts_of(table.schema)


def known_columns(columns: Sequence[str] | None, there: Iterable[str]) -> None:
    """Refuses a column that is not there; None is all that are."""
    for name in columns or ():
        one_of("columns", name, there)


def texts_of(schema: Any) -> dict[str, str]:
    """The texts in the metadata of a Parquet file or its schema."""
    found = {key.decode(): text.decode() for key, text in (schema.metadata or {}).items()}
    return {k.removeprefix(PREFIX): v for k, v in found.items() if k.startswith(PREFIX)}


def read_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The finished table of a folder that `jaxsched run` wrote.

    FileNotFoundError if the job there has not finished.
    """
    path = Path(folder) / "results.parquet"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; has `jaxsched run` finished there?")
    return read_parquet(path)[0]


@dataclasses.dataclass(frozen=True)
class Store:
    """An opened folder of results; see `open_store`."""

    folder: Path  # where it is
    # What goes into every file: configuration text, versions and device
    metadata: Mapping[str, str]

    def part(self, name: str) -> Path:
        """Path of a part, finished or not."""
        return self.folder / "parts" / f"{name}.parquet"

    def has(self, name: str) -> bool:
        """Whether a part is finished."""
        return self.part(name).exists()

    def read(self, name: str, advice: str = AGAIN) -> pd.DataFrame:
        """Reads a finished part; a damaged one is an error that says what to do."""
        return read_parquet(self.part(name), advice=advice)[0]

    def write(self, name: str, frame: pd.DataFrame) -> None:
        """Adds a part, whole or not at all."""
        write_parquet(self.part(name), frame, self.metadata)

    def finish(self, frame: pd.DataFrame, name: str = "results", **more: str) -> Path:
        """Writes a whole table, with more texts in its metadata; returns its path.

        Where nothing can be written, a table that is there already will do.
        """
        path = self.folder / f"{name}.parquet"
        try:
            write_parquet(path, frame, {**self.metadata, **more})
        except OSError:
            if not (path.exists() and read_parquet(path)[0].equals(frame)):
                raise
        return path


def about(config: str) -> dict[str, Any]:
    """The manifest of results of this configuration (TOML text) that are begun now."""
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"config": config, "versions": versions(), "device": device(), "started": started}


def open_store(folder: Path, config: str) -> Store:
    """Opens a folder for the results of a configuration (TOML text), new or begun earlier.

    It is made if need be; one that holds no results yet is begun anew. ValueError if it belongs to
    another configuration or version (the difference is in the text), or has files in it but no
    manifest.
    """
    new = about(config)
    texts = {"config": config, "versions": json.dumps(versions()), "device": new["device"]}
    store = Store(folder, texts)
    path = folder / "manifest.json"
    # Hidden files do not count: a run killed while it wrote a file leaves one.
    if path.exists():
        difference = _difference(folder, config)
        if difference and any(folder.rglob("[!.]*.parquet")):
            raise ValueError(
                f"{folder} holds results of another configuration; give another --out, or delete "
                f"it. The difference:\n{difference}"
            )
        if not difference:
            return store
    elif folder.exists() and any(not file.name.startswith(".") for file in folder.iterdir()):
        raise ValueError(f"{folder} has files in it but no results; give an empty or a new folder")
    write_text(path, json.dumps(new, indent=2) + "\n")
    return store


SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """Writes the SHA-256 of every file below a folder that others wrote into one beside them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{digest(path)}  {path.relative_to(folder)}\n" for path in files]
    write_text(folder / SUMS, "".join(lines))


def check_sums(folder: Path, what: str, advice: str) -> None:
    """Refuses a folder one of whose files is not what `write_sums` saw; without sums it passes.

    ValueError that names the file.
    """
    if not (folder / SUMS).exists():
        return
    with faults.reading(folder / SUMS, "sums of files", advice):
        lines = [line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines()]
        expected = {folder / name: found for found, name in lines}
    for path, found in expected.items():
        if not path.exists() or digest(path) != found:
            state = "damaged" if path.exists() else "missing"
            raise ValueError(f"{path}: {state}, so {what} {folder} cannot be read; {advice}")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second run out of a folder of results while this one is at work.

    ValueError if another one is.
    """
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            try:
                file = stack.enter_context(open(folder / ".lock", "w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{folder}: another run is at work there") from None
            except OSError as error:
                # Where nothing can be written nothing can be spoiled, and some file systems have
                # no locks: then nobody is kept out.
                if error.errno not in (*faults.READ_ONLY, *NO_LOCKS):
                    raise
        yield


NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""What file systems without locks say."""


def manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a folder of results: configuration, versions, device, when it was begun.

    FileNotFoundError if there is none, ValueError if it is damaged.
    """
    path = Path(folder) / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a folder of results of jaxsched")
    with faults.reading(path, "a manifest of jaxsched", "give another folder"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found["config"], str):
            raise ValueError("it has no configuration")
        found["versions"]["jaxsched"]
    return found


def _difference(folder: Path, config: str) -> str:
    """How a manifest differs in configuration or version of jaxsched; empty if it does not."""
    found = manifest(folder)
    before, version = found["config"], found["versions"]["jaxsched"]
    there = [f"# jaxsched {version}", *before.splitlines()]
    now = [f"# jaxsched {__version__}", *config.splitlines()]
    lines = difflib.unified_diff(there, now, "there", "now", n=0, lineterm="")
    return "\n".join(f"  {line}" for line in lines if not line.startswith("@@"))
