"""Schedulers as data: each policy is four small choices, everything else is shared.

Sources: arXiv 2508.14544 (H-SF, A_max, A_min), arXiv 2502.07115 (MC-SF), arXiv 2606.22327 (SVF);
`fcfs` is what serving engines do.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

LARGEST = 2**31 - 2
"""Largest key and estimate."""


@dataclasses.dataclass(frozen=True)
class View:
    """What is known of a request when it arrives; every field but the last two has one shape.

    Attributes:
      prompt: Prompt length in tokens.
      output: True output length in tokens; only a hindsight policy may read it.
      lower: Predicted lower bound of the output.
      upper: Predicted upper bound of the output.
      point: Point prediction of the output; only policies with `needs_point` may read it.
      arrival: Round of arrival. Under a clock, what it compares like: the number of different
        arrivals in the lane before its own.
      rank: Place of the request by `Policy.rank`; 0 without.
      memory: KV cache of the worker in tokens, of shape [].
      params: `Policy.params`.
    """

    prompt: Array
    output: Array
    lower: Array
    upper: Array
    point: Array
    arrival: Array
    rank: Array
    memory: Array
    params: Any = None


@dataclasses.dataclass(frozen=True)
class Running:
    """What is known of an active request; the first three fields have one shape.

    Attributes:
      prompt: Prompt length in tokens.
      generated: Tokens generated since it was admitted.
      admitted: Round of admission.
      memory: KV cache of the worker in tokens, of shape [].
      params: `Policy.params`.
    """

    prompt: Array
    generated: Array
    admitted: Array
    memory: Array
    params: Any = None


Estimate = Callable[[View], Array]
AdmissionKey = Callable[[Array, View], Array]
Reserve = Callable[[Array, View], Array]
EvictionKey = Callable[[Array, Running], Array]
Refine = Callable[[Array, Running], Array]
Headroom = Callable[[View], Array]
Rank = Callable[[Array, View, Array], Array]
Quantum = Callable[[Array, Running], Array]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=[
        "name", "estimate", "admission_key", "reserve", "eviction_key", "refine", "headroom",
        "rank", "quantum", "evict_largest", "hindsight", "shortest_first", "needs_point",
    ],
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Policy:
    """A scheduler: an initial estimate and four choices, on int32 arrays of one shape.

    A pytree whose leaves are `params`, the numbers of the policy: `jax.vmap` runs thousands of them
    as lanes. Everything else is static: policies that are equal but for `params` and name share one
    compiled program. Define the functions of your own policy once, at module level, so that two
    instances of it compare equal.

    Attributes:
      name: Canonical name, used in tables.
      estimate: View -> initial estimate of the output length.
      admission_key: (estimate, View) -> key; the smallest (key, index) is admitted first.
      reserve: (estimate, View) -> length reserved; the engine caps it at memory - prompt.
      eviction_key: (estimate, Running) -> key; the smallest (key, index) is evicted first, or the
        largest if `evict_largest`.
      refine: (estimate, Running) -> estimate after an eviction; it may not read `admitted`.
      headroom: View -> tokens of memory that the look-ahead test of this request leaves free,
        unless nobody is active; `None` for none.
      rank: (estimate, View, which are requests and not padding) -> `View.rank`, of all requests of
        a lane at once, [n], before it starts; `None` for none. `simulate` then refuses arrivals: an
        order of all requests would know the future of a stream.
      quantum: (estimate, Running) -> tokens, at least 1, after which an active request gives its
        place up as if it were evicted, before any other eviction; `None` for never. It may read
        neither `generated` nor `admitted`.
      evict_largest: Evict the largest (key, index) instead of the smallest.
      hindsight: The policy may read the true output.
      shortest_first: The policy orders by, reserves, and estimates exactly the true output; it then
        never evicts, which the engine exploits.
      needs_point: The policy reads `View.point`.
      params: Numbers that the functions read from `View` and `Running`, any pytree of arrays.
    """

    name: str
    estimate: Estimate
    admission_key: AdmissionKey
    reserve: Reserve
    eviction_key: EvictionKey
    refine: Refine
    headroom: Headroom | None = None
    rank: Rank | None = None
    quantum: Quantum | None = None
    evict_largest: bool = False
    hindsight: bool = False
    shortest_first: bool = False
    needs_point: bool = False
    params: Any = None

    @property
    def kind(self) -> Policy:
        """The policy without its numbers and its name: what decides which program runs."""
        return dataclasses.replace(self, name="", params=None)


def h_sf() -> Policy:
    """Hindsight shortest first: admits and reserves by the true output (2508.14544, section 3)."""
    return Policy(
        name="h_sf",
        estimate=_output,
        admission_key=_by_estimate,
        reserve=_by_estimate,
        eviction_key=_evict_by_estimate,
        refine=_larger,
        hindsight=True,
        shortest_first=True,
    )


def a_max() -> Policy:
    """Conservative A_max: admits and reserves by the predicted upper bound (2508.14544)."""
    return Policy(
        name="a_max",
        estimate=_upper,
        admission_key=_by_estimate,
        reserve=_by_estimate,
        eviction_key=_evict_by_estimate,
        refine=_larger,
    )


def mc_sf() -> Policy:
    """MC-SF: admits and reserves by a point prediction of the output (2502.07115)."""
    return Policy(
        name="mc_sf",
        estimate=_point,
        admission_key=_by_estimate,
        reserve=_by_estimate,
        eviction_key=_evict_by_estimate,
        refine=_larger,
        needs_point=True,
    )


def a_min(refine: str = "on_eviction") -> Policy:
    """Adaptive A_min: starts from the predicted lower bound, evicts on overflow and refines.

    The estimate of an evicted request becomes max(estimate, tokens generated). The published text
    (2508.14544) does not say whether an active request's progress counts when the next eviction is
    chosen, so both readings exist.

    Args:
      refine: "on_eviction" orders evictions by the estimate alone, the literal reading;
        "every_round" by max(estimate, tokens generated so far).

    Raises:
      ValueError: If `refine` is neither.
    """
    eviction_keys = {"on_eviction": _evict_by_estimate, "every_round": _evict_by_progress}
    if not isinstance(refine, str) or refine not in eviction_keys:
        raise ValueError(f"a_min: refine is {refine!r}; expected one of {sorted(eviction_keys)}")
    return Policy(
        name=f"a_min:{refine}",
        estimate=_lower,
        admission_key=_by_estimate,
        reserve=_by_estimate,
        eviction_key=eviction_keys[refine],
        refine=_larger,
    )


def fcfs(watermark: Any = 0.0) -> Policy:
    """First come first served, as serving engines do: no prediction, evicts the latest admitted.

    Args:
      watermark: Share of the memory that must stay free when a request enters beside others, 0 to
        1; rounded to 1/1024. vLLM's default is 0.01. May be traced.

    Raises:
      ValueError: If it is not between 0 and 1.
    """
    plain = Policy(
        name="fcfs",
        estimate=_one,
        admission_key=_by_arrival,
        reserve=_by_estimate,
        eviction_key=_evict_by_admission,
        refine=_keep,
        evict_largest=True,
    )
    module, name = jnp, "fcfs:watermark"
    if not isinstance(watermark, jax.core.Tracer):
        if not 0 <= watermark <= 1:
            raise ValueError(f"fcfs: watermark is {watermark}; expected 0 to 1")
        if watermark == 0:
            return plain
        module, name = np, f"{name}={watermark:g}"
    return dataclasses.replace(
        plain,
        name=name,
        headroom=_share_of_memory,
        params=module.rint(module.asarray(watermark, np.float32) * np.float32(1024)).astype(
            np.int32
        ),
    )


def svf(by: str = "output") -> Policy:
    """Smallest volume first: admits by the memory-time s r + r (r + 1) / 2 of a request.

    s is the prompt and r the estimate, at most the memory. Reserves the estimate. Volumes beyond
    2^31 - 2 tie. With hindsight the order of arXiv 2606.22327; with a prediction its volume; the
    estimate of an evicted request becomes max(estimate, tokens generated), and the smallest volume
    is evicted first, as A_min does with lengths.

    Args:
      by: "output" (hindsight), "point", "lower" or "upper".

    Raises:
      ValueError: If `by` is none of them.
    """
    return Policy(
        name=f"svf:{by}",
        estimate=estimate_by("svf", by),
        admission_key=_by_volume,
        reserve=_by_estimate,
        eviction_key=_evict_by_volume,
        refine=_larger,
        hindsight=by == "output",
        needs_point=by == "point",
    )


def estimate_by(who: str, by: str) -> Estimate:
    """The estimate that is a field of `View`, given by its name; errors say who asked."""
    estimates = {"output": _output, "point": _point, "lower": _lower, "upper": _upper}
    if not isinstance(by, str) or by not in estimates:
        raise ValueError(f"{who}: by is {by!r}; expected one of {sorted(estimates)}")
    return estimates[by]


def _published(name: str, *arguments: str) -> Policy:
    """A policy of `jaxsched.schedulers`."""
    from jaxsched import schedulers  # noqa: PLC0415 - it builds on this file

    return getattr(schedulers, name)(*arguments)


def _tuned(source: str) -> Policy:
    """A rule of `jaxsched.tuned`."""
    from jaxsched import tuned  # noqa: PLC0415 - it builds on this file

    return tuned.load_policy(source)


SHIPPED: dict[str, Callable[[], Policy]] = {
    "h_sf": h_sf,
    "a_max": a_max,
    "a_min": a_min,
    "a_min:on_eviction": functools.partial(a_min, "on_eviction"),
    "a_min:every_round": functools.partial(a_min, "every_round"),
    "mc_sf": mc_sf,
    "fcfs": fcfs,
    "svf:output": functools.partial(svf, "output"),
    "svf:point": functools.partial(svf, "point"),
    "svf:lower": functools.partial(svf, "lower"),
    "svf:upper": functools.partial(svf, "upper"),
    "sorted_f:output": functools.partial(_published, "sorted_f", "output"),
    "sorted_f:point": functools.partial(_published, "sorted_f", "point"),
    "sorted_f:lower": functools.partial(_published, "sorted_f", "lower"),
    "sorted_f:upper": functools.partial(_published, "sorted_f", "upper"),
    "gsa_spec": functools.partial(_published, "gsa_spec"),
}
"""Names that `policy` understands; `NUMBERED` has those with a number."""

NUMBERED: dict[str, Callable[[float], Policy]] = {
    "fcfs:watermark": fcfs,
    "gsa_spec:patience": functools.partial(_published, "gsa_spec"),
}


def policy(name: str) -> Policy:
    """Looks a shipped policy up by name, such as "a_min" (its default reading) or "svf:lower".

    A number may follow those in `NUMBERED`, such as "fcfs:watermark=0.01". Tuned rules are
    "tuned:NAME", one that is shipped, and "tuned:FILE", your own (see `jaxsched.tuned`).

    Raises:
      ValueError: If there is no such policy; the text lists the right names.
      OSError: If the file of a tuned rule cannot be read.
    """
    if isinstance(name, str):
        if name in SHIPPED:
            return SHIPPED[name]()
        if name.startswith("tuned:"):
            return _tuned(name.removeprefix("tuned:"))
        plain, equals, number = name.partition("=")
        if equals and plain in NUMBERED:
            return NUMBERED[plain](_number(name, number))
    numbered = (f"{plain}=NUMBER" for plain in NUMBERED)
    names = ", ".join([*SHIPPED, *numbered, "tuned:NAME", "tuned:FILE"])
    raise ValueError(f"policy {name!r} is unknown; expected one of {names}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"policy {name!r}: {text!r} is not a number") from None


def _output(view: View) -> Array:
    return view.output


def _upper(view: View) -> Array:
    return view.upper


def _lower(view: View) -> Array:
    return view.lower


def _point(view: View) -> Array:
    return view.point


def _one(view: View) -> Array:
    return jnp.ones_like(view.prompt)


def _by_estimate(estimate: Array, view: View) -> Array:
    return estimate


def _by_arrival(estimate: Array, view: View) -> Array:
    return view.arrival


def _by_volume(estimate: Array, view: View) -> Array:
    return volume(view.prompt, estimate, view.memory)


def _evict_by_estimate(estimate: Array, running: Running) -> Array:
    return estimate


def _evict_by_progress(estimate: Array, running: Running) -> Array:
    return jnp.maximum(estimate, running.generated)


def _evict_by_admission(estimate: Array, running: Running) -> Array:
    return running.admitted


def _evict_by_volume(estimate: Array, running: Running) -> Array:
    return volume(running.prompt, estimate, running.memory)


def _larger(estimate: Array, running: Running) -> Array:
    return jnp.maximum(estimate, running.generated)


def _keep(estimate: Array, running: Running) -> Array:
    return estimate


def _share_of_memory(view: View) -> Array:
    with jax.enable_x64(True):
        share = view.memory.astype(jnp.int64) * view.params.astype(jnp.int64)
        return (share >> np.int64(10)).astype(jnp.int32)


def volume(prompt: Array, estimate: Array, memory: Array) -> Array:
    """Memory-time s r + r (r + 1) / 2 of a run of r = min(estimate, memory) tokens, token-rounds.

    Of the shape of `prompt`, int32; what is larger counts as 2^31 - 2.
    """
    with jax.enable_x64(True):
        s, r = (array.astype(jnp.int64) for array in (prompt, jnp.minimum(estimate, memory)))
        exact = s * r + ((r * (r + np.int64(1))) >> np.int64(1))
        return jnp.minimum(exact, np.int64(LARGEST)).astype(jnp.int32)


def check_policy_functions(policy: Policy) -> None:
    """Refuses a policy whose choices cannot be simulated, or that is not what it says.

    Raises:
      TypeError: If a choice does not give int32 of its arguments' shape; the text names it.
      ValueError: If the policy reads `point` without `needs_point`, or says `shortest_first`
        without estimating, ordering and reserving by the true output.
    """
    leaves, structure = jax.tree.flatten(policy.params)
    shapes = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    _check_choices(dataclasses.replace(policy, params=None), structure, shapes)


@functools.lru_cache(maxsize=256)
def _check_choices(policy: Policy, structure: Any, shapes: tuple[Any, ...]) -> None:
    """Calls the choices on made-up numbers; zeros stand for the policy's own."""
    params = structure.unflatten([np.zeros(shape, dtype) for shape, dtype in shapes])
    numbers = np.arange(1, 4, dtype=np.int32)
    with jax.ensure_compile_time_eval():
        params = jax.tree.map(jnp.asarray, params)
        view, memory = _Watched(params), jnp.int32(100)
        running = Running(*(jnp.asarray(numbers + 7 * i) for i in range(3)), memory, params)
        estimate = _choice(policy, "estimate", view)
        by_estimate = {
            name: _choice(policy, name, estimate, view) for name in ("admission_key", "reserve")
        }
        _choice(policy, "eviction_key", estimate, running)
        _choice(policy, "refine", estimate, running)
        if policy.headroom is not None:
            _check_headroom(policy, view)
        if policy.rank is not None:
            _choice(policy, "rank", estimate, view, jnp.ones(3, bool))
        if policy.quantum is not None:
            _choice(policy, "quantum", estimate, running)
        if policy.shortest_first:
            for name, value in {"estimate": estimate, **by_estimate}.items():
                if (value != view.output).any():
                    raise ValueError(
                        f"policy {policy.name!r}: {name} is not the true output; "
                        "expected that of a policy with shortest_first=True"
                    )
    if "point" in view.read and not policy.needs_point:
        raise ValueError(
            f"policy {policy.name!r} reads view.point; expected needs_point=True in that case"
        )


def _check_headroom(policy: Policy, view: Any) -> None:
    """Unlike the choices it may be one number for all requests."""
    value = policy.headroom(view)
    shape, dtype = jnp.shape(value), getattr(value, "dtype", type(value).__name__)
    if shape not in ((3,), ()) or dtype != np.int32:
        raise TypeError(
            f"policy {policy.name!r}: headroom gives {dtype}{list(shape)} for requests of shape "
            "[3]; expected int32[3] or int32[]"
        )


class _Watched:
    """A `View` of three made-up requests that remembers which fields were read."""

    def __init__(self, params: Any) -> None:
        names = [field.name for field in dataclasses.fields(View)[:-2]]
        values = {name: np.asarray([7, 3, 5], np.int32) + 11 * i for i, name in enumerate(names)}
        self._values = {name: jnp.asarray(value) for name, value in values.items()}
        self._values |= {"memory": jnp.int32(100), "params": params}
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Array:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"View has no {name!r}; expected one of {list(self._values)}")
        self.read.add(name)
        return self._values[name]


def _choice(policy: Policy, name: str, *arguments: Any) -> Array:
    """One of the policy's functions on three requests, its result checked."""
    value = getattr(policy, name)(*arguments)
    shape, dtype = jnp.shape(value), getattr(value, "dtype", type(value).__name__)
    if shape != (3,) or dtype != np.int32:
        raise TypeError(
            f"policy {policy.name!r}: {name} gives {dtype}{list(shape)} for requests of shape [3]; "
            "expected int32[3]"
        )
    return value
