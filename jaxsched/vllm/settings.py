"""What the scheduler inside vLLM is told, and what it reads of a request's prediction."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from typing import Any

from jaxsched import toml
from jaxsched.policies import LARGEST

KEY = "jaxsched"
"""The key of vLLM's `--additional-config`: a policy as text, or a table of `ServingSettings`."""

VARIABLES = "JAXSCHED_"
"""Before the names of `ServingSettings` in capitals: the environment variables."""

PREDICTED_KEYS = ("jaxsched_lower", "jaxsched_upper", "jaxsched_point")
"""A request's own prediction among its extra arguments (`vllm_xargs` of the OpenAI API)."""


@dataclasses.dataclass(frozen=True)
class ServingSettings:
    """What the scheduler is told, by `--additional-config` or by variables such as JAXSCHED_POLICY.

    Attributes:
      policy: Text that names it: "svf:lower", "tuned:FILE.toml", "mine.py:name".
      predictor: Folder of `jaxsched predict train`, for requests that bring no prediction; of one
        that learned from token counts, since a scheduler sees no text. "" for none.
      level: The share of outputs that reach its lower bounds.
      coverage: The share of outputs that lie within its intervals; 0 for no upper bounds.
      max_wait: Seconds that a request waits in all before it goes first; 0 for ever.
    """

    policy: str
    predictor: str = ""
    level: float = toml.at_least(0.01, 0.99, default=0.3)
    coverage: float = toml.at_least(0, 0.99, default=0.0)
    max_wait: float = toml.at_least(0, default=600.0)


def serving_settings(
    additional: Any, environment: Mapping[str, str] | None = None
) -> ServingSettings:
    """The settings: vLLM's `additional_config`, and the environment's for what that leaves out.

    Raises:
      ValueError: If neither names a policy, or a key or value is wrong; the text names it.
    """
    environment = os.environ if environment is None else environment
    found = additional.get(KEY) if isinstance(additional, Mapping) else None
    table = {"policy": found} if isinstance(found, str) else dict(found or {})
    kinds = typing.get_type_hints(ServingSettings)
    for name, kind in kinds.items():
        variable = VARIABLES + name.upper()
        if name not in table and environment.get(variable):
            try:
                table[name] = kind(environment[variable])
            except ValueError:
                raise ValueError(
                    f"{variable}: got {environment[variable]!r}; expected a number"
                ) from None
    if "policy" not in table:
        raise ValueError(
            f'no policy: set {VARIABLES}POLICY=NAME, or --additional-config \'{{"{KEY}": "NAME"}}\''
        )
    return toml.from_table(ServingSettings, table, f"{KEY}.")


def prediction_of(extra: Mapping[str, Any] | None, most: int) -> tuple[int, int, int] | None:
    """Lower bound, upper bound and point of a request's extra arguments; None if it has none.

    What is left out of them: 1, what the request may generate at most, and the upper bound.

    Raises:
      ValueError: If a number is not whole, out of range, or lower is above upper.
    """
    if not extra or not any(key in extra for key in PREDICTED_KEYS):
        return None
    lower, upper, point = (_whole(key, extra.get(key)) for key in PREDICTED_KEYS)
    lower = lower or 1
    upper = upper or max(lower, most)
    if lower > upper:
        raise ValueError(f"jaxsched_lower is {lower}; expected <= jaxsched_upper = {upper}")
    return lower, upper, point or upper


def _whole(key: str, value: Any) -> int | None:
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and value.isdigit() else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if type(number) is not int or not 1 <= number <= LARGEST:
        raise ValueError(f"{key} is {value!r}; expected a whole number, 1 to {LARGEST}")
    return number
