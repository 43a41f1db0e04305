"""What a predictor sees of a prompt: a few dozen cheap numbers and its hashed words.

No tokenizer is needed, so that a predictor works where none is installed: bytes, words and lines
say how long a prompt is. Only the first `HEAD` and the last `TAIL` characters are looked into.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
TokenNumbers = NDArray[np.int32]

HEAD, TAIL = 1200, 400
"""Characters that are read at both ends of a prompt."""

MOST_WORDS = 128
"""Hashed words; of more, those that come first."""

FIRST, LAST = 16, 12
"""Words at both ends that are hashed apart from the others."""

MARKS = "?!.,:;\"'`()[]{}<>=/*#-_\\|@$%&+\n\t"
"""Characters that are counted."""

CUES = (
    "write", "list", "explain", "code", "essay", "article", "story", "summarize", "translate",
    "give", "what", "how", "why", "who", "when", "which", "is", "are", "can", "do", "does",
    "create", "generate", "python", "javascript", "function", "error", "table", "detailed",
    "short", "brief", "paragraph", "sentence", "word", "words", "email", "letter", "plan", "ideas",
    "example", "examples", "rewrite", "fix", "act", "please", "hi", "hello", "continue", "step",
    "steps", "blog", "script", "outline", "one", "answer", "only", "yes", "no", "title", "name",
)  # fmt: skip
"""Words that have a number of their own beside the hashed one."""

_CUE = {word: i for i, word in enumerate(CUES)}
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_MARKS = np.frombuffer(MARKS.encode(), np.uint8)
_SHAPE = 14 + len(MARKS)

TEXT_FEATURES = _SHAPE + len(CUES)
"""Numbers that stand for a text."""

KNOTS = np.log1p([4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048])
LENGTH_FEATURES = 2 + len(KNOTS)
"""Numbers that stand for a prompt of which only the length is known."""


def of_texts(prompts: Sequence[str], buckets: int) -> tuple[Floats, TokenNumbers]:
    """Numbers [R, TEXT_FEATURES] and hashed words [R, MOST_WORDS], -1 where there is none."""
    numbers = np.zeros((len(prompts), TEXT_FEATURES), np.float32)
    words = np.full((len(prompts), MOST_WORDS), -1, np.int32)
    for row, text in enumerate(prompts):
        values, hashed = _of_text(text, buckets)
        numbers[row] = values
        words[row, : len(hashed)] = hashed
    return numbers, words


def of_lengths(tokens: NDArray[np.integer]) -> tuple[Floats, TokenNumbers]:
    """Numbers [R, LENGTH_FEATURES] of token counts, and no words, [R, 1]."""
    log = np.log1p(np.asarray(tokens, np.float64))[:, None]
    hinges = np.maximum(log - KNOTS, 0)
    numbers = np.concatenate([log, log**2 / 8, hinges], axis=1).astype(np.float32)
    return numbers, np.full((len(numbers), 1), -1, np.int32)


def _of_text(text: str, buckets: int) -> tuple[list[float], list[int]]:
    seen = text if len(text) <= HEAD + TAIL else f"{text[:HEAD]} {text[-TAIL:]}"
    words = _WORD.findall(seen.lower())
    different = dict.fromkeys(words)
    log = math.log1p
    data = np.frombuffer(seen.encode(errors="replace"), np.uint8)
    count = np.bincount(data, minlength=256)
    numbers = [int(word) for word in words if word.isdecimal() and len(word) < 5]
    before = [int(a) for a, b in itertools.pairwise(words)
              if b in ("words", "word") and a.isdecimal() and len(a) < 6]  # fmt: skip
    shape = [
        log(len(text)), log(len(text.encode(errors="replace"))), log(text.count("\n")),
        log(len(words)), log(len(different)), len(different) / (1 + len(words)),
        sum(map(len, words)) / (1 + len(words)) / 5, float(count[65:91].sum()) / max(1, len(data)),
        float(seen.isascii()), log(text.count("```")), log(max(numbers, default=0)) / 4,
        log(len(numbers)), log(max(before, default=0)) / 4, float(text.rstrip()[-1:] == "?"),
        *np.log1p(count[_MARKS]).tolist(),
    ]  # fmt: skip
    cues = [0.0] * len(CUES)
    for word in different:
        if word in _CUE:
            cues[_CUE[word]] = 1.0
    # What is asked is said at the start or the end: the words there count once more.
    ends = ["^" + "".join(words[:1]), "^^" + "_".join(words[:2]), "$" + "".join(words[-1:])]
    first, last = ("a" + word for word in words[:FIRST]), ("z" + word for word in words[-LAST:])
    texts = [*ends, *dict.fromkeys(first), *dict.fromkeys(last), *different][:MOST_WORDS]
    return shape + cues, [zlib.crc32(word.encode(errors="replace")) % buckets for word in texts]
