"""Settings of every test: strict JAX, two CPU devices, one cache of compiled programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jax
import pytest

from jaxsched.engines import xla as jax_engine

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)

# The workers of pytest-xdist compile the same programs, and so does the next run of the tests.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / f"jax-{jax.__version__}"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

hypothesis.settings.register_profile(
    "deterministic",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("deterministic")

Sizes = Callable[[Any], dict[str, Any]]


@pytest.fixture
def replan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sizes], None]]:
    """Gives the state of the JAX engine other sizes, a function of its plan.

    A program that was compiled before would know nothing of them: take a policy or a shape that no
    other test has. That there was none is checked.
    """
    planned, real = [], jax_engine.make_plan

    def patch(sizes: Sizes) -> None:
        def other(*args: Any) -> Any:
            plan = real(*args)
            planned.append(dataclasses.replace(plan, **sizes(plan)))
            return planned[-1]

        monkeypatch.setattr(jax_engine, "make_plan", other)

    yield patch
    assert planned, "no program was made with the other sizes"
