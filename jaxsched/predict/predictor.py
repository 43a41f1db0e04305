"""A trained predictor: numpy in, numpy out, kept by orbax in a folder.

DIR/predictor-DIGEST/  weights and calibration, an orbax checkpoint
DIR/predictor.json     where they come from: configuration, data, tokenizer, versions, digest
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxsched.predict import conformal, features, network
from jaxsched.studies import store

Prompts = Sequence[str] | NDArray[np.integer]
"""Texts, or token counts, of R prompts."""

TokenCounts = NDArray[np.int32]

HEAD_KINDS = ("text", "length")
"""What a network sees of a prompt; a predictor has one or both."""

BATCH = 4096
"""Prompts that are computed at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """From prompts to bounds of output lengths in tokens; see `train` and `load`.

    Prompts are texts, or token counts as an integer array; either way one per request, R of them.

    Attributes:
      params: Kind ("text" or "length") -> weights (see `jaxsched.predict.network`).
      moves: Kind -> moves of lower and upper bounds, [2, 199] (see `jaxsched.predict.conformal`).
      marginal: Outputs of the training rows at the levels of `SCALE_GRID`, in tokens, [199].
      edges: Of the classes, in tokens: class j is edges[j] … edges[j + 1] - 1, the last is open.
      most: The longest output of the training rows; only calibration moves a bound above it.
      about: Where it comes from: configuration, data, tokenizer, versions.
    """

    params: Mapping[str, network.Params]
    moves: Mapping[str, NDArray[np.float64]]
    marginal: NDArray[np.float64]
    edges: TokenCounts
    most: int
    about: Mapping[str, Any]

    def interval(self, prompts: Prompts, coverage: float = 0.8) -> tuple[TokenCounts, TokenCounts]:
        """Lower and upper bounds, int32 [R] each, that hold the output with this probability.

        Each side is missed with half of the rest. The probability is one over all requests of the
        kind it was calibrated on, not one for each sort of prompt.

        Raises:
          ValueError: If coverage is not above 0 and at most 0.99.
        """
        if not 0 < coverage <= 0.99 + 1e-9:
            raise ValueError(f"coverage: got {coverage}; expected above 0 and at most 0.99")
        side = (1 + coverage) / 2
        kind, found = self._roots(prompts)
        low, high = self._bound(kind, found, side, 0), self._bound(kind, found, side, 1)
        lower = _tokens(np.floor(np.minimum(low, high) + 1e-6))
        return lower, np.maximum(lower, _tokens(np.ceil(high - 1e-6)))

    def lower(self, prompts: Prompts, level: float = 0.3) -> TokenCounts:
        """Lower bounds, int32 [R], that the output reaches with a probability of `level`.

        A bound of its own: nothing is said about an upper one. 0.3 is what schedules well.
        """
        kind, found = self._roots(prompts)
        return _tokens(np.floor(self._bound(kind, found, level, 0) + 1e-6))

    def quantile(self, prompts: Prompts, levels: Sequence[float]) -> NDArray[np.float64]:
        """Quantiles of the output, in tokens, [R, L]: the network's own, not calibrated.

        They never cross.

        Raises:
          ValueError: If a level is not from 0 to 1.
        """
        asked = np.asarray(levels, np.float64)
        if asked.ndim != 1 or np.any(~((asked >= 0) & (asked <= 1))):
            raise ValueError(f"levels: got {levels}; expected numbers from 0 to 1")
        return self._at(self._roots(prompts)[1], asked) ** 2

    def classes(self, prompts: Prompts) -> NDArray[np.int64]:
        """The likeliest class of each, [R]; `edges` says what the classes are."""
        kind = self._kind(prompts)
        return np.argmax(self._apply(kind, prompts)[1], axis=1)

    def conditional(
        self, prompts: Prompts, generated: NDArray[np.integer], level: float = 0.3
    ) -> TokenCounts:
        """As `lower`, given that so many tokens are out, [R], and the answer goes on.

        After the network's own law, which is not calibrated for what is left of it.
        """
        _, found = self._roots(prompts)
        knots = np.concatenate([[0.0], network.QUANTILE_LEVELS, [1.0]])
        out = np.sqrt(np.asarray(generated, np.float64))
        passed = [float(np.interp(k, row, knots)) for k, row in zip(out, found, strict=True)]
        asked = [p + (1 - p) * (1 - level) for p in passed]
        roots = [np.interp(p, knots, row) for p, row in zip(asked, found, strict=True)]
        return _tokens(np.maximum(np.floor(np.square(roots)), np.asarray(generated) + 1))

    def update(
        self,
        prompts: Prompts,
        tokens: NDArray[np.integer],
        finished: NDArray[np.bool_] | None = None,
    ) -> Predictor:
        """The predictor calibrated anew by what a scheduler has seen lately.

        Give the last few hundred requests in the order of their arrival, running ones with them:
        those that finish first are the short ones, and a window of finished ones alone gives upper
        bounds that are far too low.

        Args:
          prompts: Of R requests that have been started.
          tokens: What each has generated, [R].
          finished: Which of them are complete, [R]; the others are at least that long. `None` for
            all.

        Raises:
          ValueError: If nothing is finished, or the shapes differ.
        """
        seen = np.asarray(tokens, np.float64)
        done = np.ones(len(seen), bool) if finished is None else np.asarray(finished, bool)
        if seen.shape != (len(prompts),) or done.shape != seen.shape:
            raise ValueError(
                f"update: got {len(prompts)} prompts, tokens of shape {seen.shape} and finished of "
                f"shape {done.shape}; expected one number each"
            )
        if not done.any():
            raise ValueError("update: no request is finished; expected at least one")
        kind, found = self._roots(prompts)
        to = self._scale.to
        lower, upper = self._sides(found)
        moved = conformal.censored_offsets(
            lower, upper, to(np.maximum(seen, 1)), done, tuple(self.moves[kind])
        )
        return dataclasses.replace(self, moves={**self.moves, kind: np.stack(moved)})

    def calibrated(self, kind: str, prompts: Prompts, output: NDArray[np.integer]) -> Predictor:
        """The predictor with bounds moved by rows that no training has seen."""
        lower, upper = self._sides(self._roots(prompts, kind)[1])
        truth = self._scale.to(np.asarray(output, np.float64))
        moved = np.stack(conformal.offsets(lower, upper, truth))
        return dataclasses.replace(self, moves={**self.moves, kind: moved})

    @property
    def digest(self) -> str:
        """SHA-256 of weights, calibration and classes."""
        found = hashlib.sha256()
        for name, leaf in sorted(_leaves(self.tree())):
            found.update(f"{name} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
        return found.hexdigest()

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes of the weights of each kind."""
        return {
            kind: sum(leaf.nbytes for _, leaf in _leaves(params))
            for kind, params in self.params.items()
        }

    def tree(self) -> dict[str, Any]:
        """All arrays, as they are kept."""
        return {
            "params": {kind: dict(params) for kind, params in self.params.items()},
            "moves": dict(self.moves),
            "marginal": self.marginal,
            "edges": self.edges,
            "most": np.array(self.most),
        }

    @property
    def _scale(self) -> conformal.Scale:
        return conformal.SCALE_NAMES[self.about["scale"]]

    def _kind(self, prompts: Prompts) -> str:
        if isinstance(prompts, str):
            raise ValueError("prompts: got one text; expected a list of them")
        numbers = isinstance(prompts, np.ndarray) and np.issubdtype(prompts.dtype, np.integer)
        if not numbers and not all(isinstance(text, str) for text in prompts):
            raise ValueError("prompts: expected a list of texts, or token counts as integer array")
        kind = "length" if numbers else "text"
        if kind not in self.params:
            raise ValueError(f"prompts: this predictor was trained without {_SEEN[kind]}")
        return kind

    def _apply(self, kind: str, prompts: Prompts) -> tuple[Any, Any]:
        params = self.params[kind]
        parts = []
        for start in range(0, max(1, len(prompts)), BATCH):
            numbers, words = inputs(kind, prompts[start : start + BATCH], params)
            parts.append(network.apply(params, numbers, words, np))
        roots, logits = zip(*parts, strict=True)
        return np.concatenate(roots), np.concatenate(logits)

    def _roots(self, prompts: Prompts, kind: str | None = None) -> tuple[str, Any]:
        """Roots of the quantiles at 0, the network's levels and 1: [R, 13], never crossing."""
        kind = kind or self._kind(prompts)
        top = np.sqrt(self.most)
        found = np.clip(self._apply(kind, prompts)[0].astype(np.float64), 1, top)
        ends = np.ones((len(found), 1))
        return kind, np.concatenate([ends, found, top * ends], axis=1)

    def _at(self, found: Any, levels: Any) -> Any:
        """Roots at other levels, linear between the network's: [R, L]."""
        knots = np.concatenate([[0.0], network.QUANTILE_LEVELS, [1.0]])
        place = np.clip(np.searchsorted(knots, levels, side="right") - 1, 0, len(knots) - 2)
        share = (levels - knots[place]) / (knots[place + 1] - knots[place])
        return found[:, place] * (1 - share) + found[:, place + 1] * share

    def _sides(self, found: Any) -> tuple[Any, Any]:
        """Lower and upper bounds on the scale before calibration, [R, 199] each."""
        at = self._scale.to(self._at(found, conformal.SCALE_GRID) ** 2)
        return at[:, ::-1], at

    def _bound(self, kind: str, found: Any, level: float, side: int) -> Any:
        """A calibrated bound in tokens, [R]; side 0 is below, 1 above."""
        place = conformal.index(level)
        asked = conformal.SCALE_GRID[place : place + 1]
        at = self._scale.to(self._at(found, 1 - asked if side == 0 else asked)[:, 0] ** 2)
        move = self.moves[kind][side][place]
        return self._scale.back(at - move if side == 0 else at + move)


_SEEN = {"text": "texts; give token counts", "length": "token counts; give texts"}


def inputs(kind: str, prompts: Prompts, params: network.Params) -> tuple[Any, Any]:
    """What the network of a kind sees of prompts: numbers and hashed words."""
    if kind == "text":
        return features.of_texts(prompts, params["words"].shape[0])  # type: ignore[arg-type]
    return features.of_lengths(np.asarray(prompts))


def save_predictor(predictor: Predictor, folder: Path) -> None:
    """Writes a predictor into a folder, whole or not at all; one that is there is replaced."""
    import orbax.checkpoint as ocp  # noqa: PLC0415 - half a second

    folder.mkdir(parents=True, exist_ok=True)
    # The text comes last and says which checkpoint belongs to it.
    name = f"predictor-{predictor.digest[:8]}"
    shutil.rmtree(folder / name, ignore_errors=True)
    with ocp.StandardCheckpointer() as kept:
        kept.save((folder / name).absolute(), predictor.tree())
    about = dict(predictor.about) | {"weights": name, "digest": predictor.digest}
    text = json.dumps(about, indent=2) + "\n"
    store.write_atomically(folder / ABOUT, lambda temporary: temporary.write_text(text))
    for other in folder.glob("predictor-*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)


ABOUT = "predictor.json"


def load(path: str | os.PathLike[str]) -> Predictor:
    """A predictor from the folder that `train` wrote.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it is damaged.
    """
    import orbax.checkpoint as ocp  # noqa: PLC0415 - half a second

    folder = Path(path)
    if not (folder / ABOUT).exists():
        raise FileNotFoundError(f"{folder / ABOUT} does not exist; expected a folder that "
                                "`jaxsched predict train` wrote")  # fmt: skip
    try:
        about = json.loads((folder / ABOUT).read_text())
        with ocp.StandardCheckpointer() as kept:
            where = (folder / about["weights"]).absolute()
            shapes = kept.metadata(where).item_metadata.tree
            tree = kept.restore(where, _like(shapes))
    except (json.JSONDecodeError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{folder}: not a predictor that can be read ({error})") from None
    found = Predictor(
        params=tree["params"], moves=tree["moves"], marginal=tree["marginal"],
        edges=tree["edges"], most=int(tree["most"]), about=about,
    )  # fmt: skip
    if found.digest != about["digest"]:
        raise ValueError(f"{folder}: the weights are not those that {ABOUT} tells of; train again")
    return found


def _like(shapes: Any) -> Any:
    if isinstance(shapes, Mapping):
        return {key: _like(value) for key, value in shapes.items()}
    return np.zeros(shapes.shape, shapes.dtype)


def _leaves(tree: Any, name: str = "") -> list[tuple[str, NDArray[Any]]]:
    if isinstance(tree, Mapping):
        return [leaf for key in tree for leaf in _leaves(tree[key], f"{name}/{key}")]
    return [(name, np.ascontiguousarray(tree))]


def _tokens(values: Any) -> TokenCounts:
    return np.clip(values, 1, 2**30).astype(np.int32)
