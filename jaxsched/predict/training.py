"""Training: pinball and class losses with adamw of optax, stopped early, resumed from orbax."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from numpy.typing import NDArray

from jaxsched.predict import network
from jaxsched.predict.config import PredictConfig, TrainingConfig

OnEpoch = Callable[[str, int, float], Any]
"""(kind, epochs done, best validation loss so far) -> anything."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingRows:
    """Rows as the network sees them."""

    numbers: NDArray[np.float32]  # [R, F]
    words: NDArray[np.int32]  # [R, W]
    output: NDArray[np.int32]  # tokens, [R]
    classes: NDArray[np.int32]  # [R]
    weight: NDArray[np.float32]  # in the loss, [R]


def joined(one: TrainingRows, other: TrainingRows) -> TrainingRows:
    """The rows of both."""
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return TrainingRows(*map(np.concatenate, pairs))


def fit(
    kind: str, train: TrainingRows, validation: TrainingRows, config: PredictConfig, classes: int,
    folder: Path | None, on_epoch: OnEpoch = lambda *_: None,
) -> network.Params:  # fmt: skip
    """Weights with the best validation loss; from the latest checkpoint in `folder`, if any."""
    settings = config.training
    start = _start(kind, train, config, classes)
    optimizer = _optimizer(settings, len(train.output))
    state: dict[str, Any] = {
        "params": start,
        "average": start,
        "best": start,
        "slots": jax.tree.leaves(optimizer.init(start)),
        "loss": np.array(np.inf),
        "epoch": np.array(0),
        "best_epoch": np.array(0),
    }
    shape = jax.tree.structure(optimizer.init(start))
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    kept = None if folder is None else ocp.CheckpointManager(folder.absolute(), options=options)
    try:
        if kept is not None and kept.latest_step() is not None:
            like = jax.tree.map(np.asarray, state)
            state = kept.restore(kept.latest_step(), args=ocp.args.StandardRestore(like))
        while not _done(state, settings):
            epoch = int(state["epoch"])
            order = np.random.default_rng([config.seed, epoch]).permutation(len(train.output))
            steps = len(order) // settings.batch
            batches = order[: steps * settings.batch].reshape(steps, settings.batch)
            slots = jax.tree.unflatten(shape, state["slots"])
            params, slots, average = _epoch(
                settings, len(order), (state["params"], slots, state["average"]),
                _device(train), batches, np.arange(epoch * steps, (epoch + 1) * steps),
            )  # fmt: skip
            average = jax.tree.map(np.asarray, average)
            loss = float(_loss(average, _device(validation), 0.0))
            state |= {"params": jax.tree.map(np.asarray, params), "average": average,
                      "slots": jax.tree.map(np.asarray, jax.tree.leaves(slots)),
                      "epoch": np.array(epoch + 1)}  # fmt: skip
            if loss < state["loss"]:
                state |= {"best": average, "loss": np.array(loss),
                          "best_epoch": np.array(epoch + 1)}  # fmt: skip
            if kept is not None:
                kept.save(epoch + 1, args=ocp.args.StandardSave(state))
            on_epoch(kind, epoch + 1, float(state["loss"]))
    finally:
        if kept is not None:
            kept.close()
    return state["best"]


def _done(state: dict[str, Any], settings: TrainingConfig) -> bool:
    waited = state["epoch"] - state["best_epoch"]
    return bool(state["epoch"] >= settings.epochs or waited >= settings.patience)


def _start(kind: str, train: TrainingRows, config: PredictConfig, classes: int) -> dict[str, Any]:
    sizes = config.network
    buckets = sizes.buckets if kind == "text" else 0
    params = dict(network.init(
        train.numbers.shape[1], buckets, sizes.width, sizes.hidden, classes, config.seed
    ))  # fmt: skip
    whole = train.numbers[train.weight == 1]
    params["mean"] = whole.mean(axis=0)
    params["scale"] = np.maximum(whole.std(axis=0), 0.05).astype(np.float32)
    return params


def _optimizer(settings: TrainingConfig, rows: int) -> optax.GradientTransformation:
    steps = settings.epochs * max(1, rows // settings.batch)
    rate = optax.cosine_decay_schedule(settings.learning_rate, steps, 0.05)
    decayed = {"words": True, "hidden": True, "quantiles": True, "classes": True}

    def mask(params: Any) -> Any:
        return {name: decayed.get(name, False) for name in params}

    return optax.adamw(rate, weight_decay=settings.weight_decay, mask=mask)


def _device(rows: TrainingRows) -> tuple[Any, ...]:
    return rows.numbers, rows.words, rows.output.astype(np.float32), rows.classes, rows.weight


@functools.partial(jax.jit, static_argnums=(0, 1))
def _epoch(
    settings: TrainingConfig, rows: int, state: Any, data: Any, batches: Any, steps: Any
) -> Any:
    """One pass over the rows in an order."""
    optimizer = _optimizer(settings, rows)

    def step(carry: Any, now: Any) -> Any:
        (params, slots, average), (batch, number) = carry, now
        some = jax.tree.map(lambda leaf: leaf[batch], data)
        gradient = jax.grad(_loss)(params, some, settings.class_weight)
        # How numbers are brought to one size stays as it is.
        fixed = [name for name in ("mean", "scale", "unit") if name in gradient]
        gradient |= {name: jnp.zeros_like(gradient[name]) for name in fixed}
        # optax counts steps in integers and multiplies by them.
        with jax.numpy_dtype_promotion("standard"):
            updates, slots = optimizer.update(gradient, slots, params)
        params = optax.apply_updates(params, updates)
        # At first the average is over few steps.
        kept = jnp.minimum(settings.average, (1.0 + number) / (10.0 + number))
        average = jax.tree.map(lambda a, b: kept * a + (1 - kept) * b, average, params)
        return (params, slots, average), None

    return jax.lax.scan(step, state, (batches, steps.astype(jnp.float32)))[0]


@jax.jit
def _loss(params: Any, data: Any, class_weight: Any) -> Any:
    """Mean pinball loss of the roots in units, and the classes' cross entropy."""
    numbers, words, output, classes, weight = data
    roots, logits = network.apply(params, numbers, words, jnp)
    error = (jnp.sqrt(output)[:, None] - roots) / network.TOKEN_UNIT
    levels = jnp.asarray(network.QUANTILE_LEVELS, jnp.float32)[None]
    pinball = jnp.mean(jnp.maximum(levels * error, (levels - 1) * error), axis=1)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    return jnp.sum(weight * (pinball + class_weight * entropy)) / jnp.sum(weight)
