"""What is simulated: batches of scheduling instances, and the checks that refuse bad ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsched.arrays import Pytree, split
from jaxsched.clocks.formula import TICKS_PER_SECOND, to_ticks

MAX_MEMORY = 2**28
"""Largest KV cache, in tokens, for which the engine's int32 arithmetic cannot overflow."""

MAX_ROUND = 2**30 - 1
"""Largest round the engine can reach; also the largest arrival it accepts."""

MAX_LENGTH = 2**31 - 2
"""Largest predicted length; prompts and outputs are bounded by the memory anyway."""

MAX_SECONDS = 4_611_686
"""Largest arrival in seconds, 53 days: a clock counts picoseconds up to 2^62."""

REQUEST_FIELDS = ("prompt", "output", "lower", "upper", "arrival", "point")


class Instance(Pytree):
    """A batch of instances: leading axes are lanes, the last axis is the request.

    Each lane is one worker with room for `memory` tokens of KV cache and its own requests, as in
    arXiv 2502.07115, section 2. Leaves may be numpy or JAX arrays, or anything `numpy.asarray`
    takes. Nothing is checked here; `simulate` and `check_instance` do.

    Attributes:
      prompt: Prompt lengths in tokens, at least 1, of shape [..., n].
      output: True output lengths in tokens, at least 1, of shape [..., n]. Only hindsight
        policies read them.
      lower: Predicted lower bounds of the output lengths, at least 1, of shape [..., n].
      upper: Predicted upper bounds, at least `lower`, of shape [..., n]. The truth may lie
        outside the interval.
      memory: KV cache in tokens, a scalar or of shape [...].
      arrival: Rounds from which the requests are known, at least 0, of shape [..., n]; under a
        clock seconds, in floating point, rounded to picoseconds (as arguments of the caller's own
        `jit` they are float32 unless `jax_enable_x64` is on, and exact to 24 bits only). `None` for
        a backlog that is there from the start.
      point: Point predictions of the output lengths, at least 1, of shape [..., n]; only
        policies that say so need them.
      num_requests: Number of real requests of each lane, of shape [...]; those at later
        positions are padding. `None`: all n are real.
    """

    prompt: chex.ArrayNumpyTree
    output: chex.ArrayNumpyTree
    lower: chex.ArrayNumpyTree
    upper: chex.ArrayNumpyTree
    memory: chex.ArrayNumpyTree
    arrival: chex.ArrayNumpyTree | None = None
    point: chex.ArrayNumpyTree | None = None
    num_requests: chex.ArrayNumpyTree | None = None

    @property
    def n(self) -> int:
        """Number of request positions in a lane, padding included."""
        return np.shape(self.prompt)[-1]

    @property
    def lanes(self) -> tuple[int, ...]:
        """Shape of the leading (lane) axes."""
        return np.shape(self.prompt)[:-1]


def any_traced(tree: Any) -> bool:
    """Whether any leaf is an abstract value inside someone's `jit` or `vmap`."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def stack(instances: Iterable[Instance]) -> Instance:
    """Joins single-lane instances, of possibly different n, into one batch.

    Args:
      instances: Concrete instances whose request arrays have shape [n_i].

    Returns:
      An instance of lane shape [len(instances)]; shorter lanes are padded and `num_requests`
      says where the padding starts.

    Raises:
      TypeError: If a field does not hold integers.
      ValueError: If there is none, one has lane axes or is refused by `check_instance`, or a field
        is given by some but not all.
    """
    instances = list(instances)
    if not instances:
        raise ValueError("stack: expected at least one instance, got none")
    for i, instance in enumerate(instances):
        if not isinstance(instance, Instance):
            raise TypeError(f"stack: item {i} is {instance!r}; expected an Instance")
        if instance.lanes != ():
            raise ValueError(
                f"stack: instance {i} has lane axes {instance.lanes}; expected arrays of shape [n]"
            )
        try:
            check_instance(instance)
        except (TypeError, ValueError) as error:
            raise type(error)(f"stack: instance {i}: {error}") from error
    width = max(instance.n for instance in instances)
    fields: dict[str, Any] = {}
    for name in REQUEST_FIELDS:
        given = [getattr(instance, name) for instance in instances]
        missing = [i for i, value in enumerate(given) if value is None]
        if missing and len(missing) < len(given):
            raise ValueError(
                f"stack: instance {missing[0]} has no {name}; expected it in all or in none"
            )
        if not missing:
            fill = 0 if name == "arrival" else 1
            rows = [np.asarray(value) for value in given]
            if name == "arrival" and len({_is_seconds(name, row) for row in rows}) > 1:
                raise TypeError("stack: arrival is in rounds in some and in seconds in others")
            fields[name] = np.stack(
                [np.pad(row, (0, width - row.shape[-1]), constant_values=fill) for row in rows]
            )
    counts = [
        instance.n if instance.num_requests is None else int(instance.num_requests)
        for instance in instances
    ]
    return Instance(
        memory=np.stack([np.asarray(instance.memory) for instance in instances]),
        num_requests=np.asarray(counts, np.int32),
        **fields,
    )


def canonical(instance: Instance) -> Instance:
    """Broadcasts scalars over the lanes and brings every leaf to int32, without checking values.

    Arrivals in seconds become picoseconds: int64, if they are traced in pairs (`jaxsched.arrays`).
    """
    lanes, module = instance.lanes, jnp if any_traced(instance) else np
    count = instance.n if instance.num_requests is None else instance.num_requests
    per_request = {
        name: _int32(value, module)
        for name in REQUEST_FIELDS
        if (value := getattr(instance, name)) is not None and not _is_seconds(name, value)
    }
    if instance.arrival is not None and "arrival" not in per_request:
        per_request["arrival"] = _arrival_ticks(instance.arrival, module)
    return Instance(
        memory=module.broadcast_to(_int32(instance.memory, module), lanes),
        num_requests=module.broadcast_to(_int32(count, module), lanes),
        **per_request,
    )


def _is_seconds(name: str, value: Any) -> bool:
    """Whether this is a field of arrivals in floating point."""
    if name != "arrival" or value is None:
        return False
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    return bool(jnp.issubdtype(dtype, np.floating))


def in_seconds(instance: Instance) -> bool:
    """Whether arrivals are in seconds, that is in floating point."""
    return _is_seconds("arrival", instance.arrival)


def _arrival_ticks(seconds: Any, module: Any) -> Any:
    """Picoseconds; -1 for what is no time of arrival."""
    if module is np:
        seconds = np.asarray(seconds, np.float64)
        good = (seconds >= 0) & (seconds <= MAX_SECONDS)
        return np.where(good, to_ticks(np.where(good, seconds, 0)), np.int64(-1))
    with jax.enable_x64(True):
        seconds = jnp.asarray(seconds).astype(jnp.float64)
        good = (seconds >= 0) & (seconds <= np.float64(MAX_SECONDS))
        ticks = jnp.rint(jnp.where(good, seconds, np.float64(0)) * np.float64(TICKS_PER_SECOND))
        return split(jnp.where(good, ticks.astype(jnp.int64), np.int64(-1)))


def _int32(value: Any, module: Any) -> Any:
    """Clipped, since a number that wraps could pass the checks; no check accepts the ends."""
    array, int32 = module.asarray(value), np.iinfo(np.int32)
    given = np.iinfo(array.dtype)
    low, high = max(given.min, int32.min), min(given.max, int32.max)
    return module.clip(array, array.dtype.type(low), array.dtype.type(high)).astype(np.int32)


def check_shapes(instance: Instance, needs_point: bool, seconds: bool = False) -> None:
    """Refuses wrong shapes and dtypes; works on abstract values too.

    Raises:
      TypeError: If a field does not hold integers, or arrivals are not in floating point though
        they should be in seconds.
      ValueError: If a field has the wrong shape, or a needed point prediction is missing.
    """
    for name in (*REQUEST_FIELDS, "memory", "num_requests"):
        _check_array(name, getattr(instance, name))
    shape = np.shape(instance.prompt)
    if len(shape) == 0 or 0 in shape:
        raise ValueError(
            f"prompt: got shape {list(shape)}; expected [..., n] with no axis of length 0"
        )
    if needs_point and instance.point is None:
        raise ValueError("point: missing; this policy needs a point prediction of shape [..., n]")
    for name in (*REQUEST_FIELDS, "memory", "num_requests"):
        value = getattr(instance, name)
        if value is None:
            if name in ("arrival", "point", "num_requests"):
                continue
            raise ValueError(f"{name}: missing; expected integers")
        if name == "arrival" and seconds:
            _check_seconds(value)
        else:
            _check_dtype(name, value)
        got = np.shape(value)
        expected = (shape,) if name in REQUEST_FIELDS else ((), shape[:-1])
        if got not in expected:
            texts = " or ".join(str(list(option)) for option in dict.fromkeys(expected))
            raise ValueError(f"{name}: got shape {list(got)}; expected {texts}, as prompt has")


def check_instance(
    instance: Instance, needs_point: bool = False, seconds: bool | None = None
) -> None:
    """Refuses an instance that model and engine cannot simulate, naming the first fault.

    Args:
      instance: A concrete instance (numpy or JAX arrays, not traced).
      needs_point: Whether the policy reads `point`.
      seconds: Whether arrivals have to be in seconds; by default they may be either.

    Raises:
      TypeError: If a field does not hold integers.
      ValueError: If a shape or a value is wrong; the text names lane, request, field, value and
        what was expected.
    """
    seconds = in_seconds(instance) if seconds is None else seconds
    check_shapes(instance, needs_point, seconds)
    arrays = {
        name: np.asarray(value)
        for name in (*REQUEST_FIELDS, "memory", "num_requests")
        if (value := getattr(instance, name)) is not None
    }
    if seconds and "arrival" in arrays:
        arrays["arrival"] = arrays["arrival"].astype(np.float64)
    lanes, n = instance.lanes, instance.n
    memory = np.broadcast_to(arrays["memory"], lanes)
    count = np.broadcast_to(arrays.get("num_requests", np.int32(n)), lanes)
    _refuse("memory", memory, (memory < 1) | (memory > MAX_MEMORY), f"1 to {MAX_MEMORY}")
    _refuse("num_requests", count, (count < 0) | (count > n), f"0 to {n}")
    real = np.arange(n) < count[..., None]
    for name in REQUEST_FIELDS:
        if name in arrays:
            low, high, unit = 1, MAX_LENGTH, ""
            if name == "arrival":
                low, high, unit = (0, MAX_SECONDS, " seconds") if seconds else (0, MAX_ROUND, "")
            value = arrays[name]
            bad = real & ~((value >= low) & (value <= high))  # NaN is neither
            _refuse(name, value, bad, f"{low} to {high}{unit}")
    _refuse("lower", arrays["lower"], real & (arrays["lower"] > arrays["upper"]),
            "at most upper = {}", arrays["upper"])  # fmt: skip
    peak = arrays["prompt"].astype(np.int64) + arrays["output"]
    _refuse("prompt + output", peak, real & (peak > memory[..., None]),
            "at most memory = {}, or this request can never finish",
            np.broadcast_to(memory[..., None], peak.shape))  # fmt: skip


def valid_lanes(instance: Instance) -> jax.Array:
    """The value checks of `check_instance` for traced values: a mask of shape [...].

    Args:
      instance: An instance in canonical form.
    """
    memory, count = instance.memory, instance.num_requests
    shape = instance.prompt.shape
    real = lax.broadcasted_iota(np.int32, shape, len(shape) - 1) < count[..., None]
    good = (instance.lower >= 1) & (instance.lower <= instance.upper)
    good &= (instance.upper <= MAX_LENGTH) & (instance.prompt >= 1) & (instance.output >= 1)
    good &= instance.prompt <= memory[..., None]
    good &= instance.output <= memory[..., None] - instance.prompt
    if instance.point is not None:
        good &= (instance.point >= 1) & (instance.point <= MAX_LENGTH)
    if instance.arrival is not None and instance.arrival.ndim > len(shape):
        good &= instance.arrival[..., 0] >> np.uint32(31) == 0  # the sign of a pair
    elif instance.arrival is not None:
        good &= (instance.arrival >= 0) & (instance.arrival <= MAX_ROUND)
    lane_good = (memory >= 1) & (memory <= MAX_MEMORY) & (count >= 0) & (count <= instance.n)
    return lane_good & jnp.all(good | ~real, axis=-1)


def _check_array(name: str, value: Any) -> None:
    """Refuses what `numpy.asarray` cannot turn into an array of numbers."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
        if not isinstance(value, jax.core.Tracer):
            raise TypeError(f"{name}: got a {type(value).__name__} inside jit; expected an array")
        return
    try:
        np.shape(value)
    except ValueError:
        raise ValueError(f"{name}: got rows of different lengths; expected [..., n]") from None


def _check_dtype(name: str, value: Any) -> None:
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    if dtype.kind in "iu":
        return
    detail = ""
    if np.issubdtype(dtype, np.floating) and not isinstance(value, jax.core.Tracer):
        array = np.asarray(value)
        odd = np.argwhere((array != np.rint(array)) | np.isinf(array))  # NaN differs from all
        if len(odd):
            place = tuple(odd[0])
            per_request = name in REQUEST_FIELDS
            detail = f" ({_place(place, per_request)}{array[place]})" if place else f" ({array})"
    if dtype.kind == "O":
        large = [v for v in np.asarray(value).ravel() if isinstance(v, int)]
        detail = f" (holds {max(large, key=abs)})" if large else ""
    raise TypeError(f"{name}: got dtype {dtype}{detail}; expected integers")


def _check_seconds(value: Any) -> None:
    if not _is_seconds("arrival", value):
        dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
        raise TypeError(
            f"arrival: got dtype {dtype}; expected seconds in floating point, under a clock"
        )


def _refuse(
    name: str,
    value: np.ndarray,
    bad: np.ndarray,
    expected: str,
    bound: np.ndarray | None = None,
) -> None:
    """Raises for the first place where `bad` holds; `expected` may show `bound` there."""
    if not bad.any():
        return
    place = tuple(np.argwhere(bad)[0])
    if bound is not None:
        expected = expected.format(int(bound[place]))
    where = _place(place, per_request=name not in ("memory", "num_requests"))
    raise ValueError(f"{where}{name} is {value[place].item()}; expected {expected}")


def _place(place: Sequence[int], per_request: bool = True) -> str:
    lane, request = (place[:-1], place[-1]) if per_request else (place, None)
    lane_text = f"lane {'/'.join(str(int(i)) for i in lane)}, " if len(lane) else ""
    return lane_text + (f"request {int(request)}: " if request is not None else "")
