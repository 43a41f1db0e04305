"""Several processes, on one machine or on many, that work on one sweep.

They need no more of each other than their number: the rows of each follow from the plan. JAX's
coordination service tells them apart and lets the first wait for the others at the end.
"""

from __future__ import annotations

import dataclasses

import jax

WEEKS = 4 * 7 * 24 * 3600
"""Seconds for which a process that has finished waits for the others."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of several processes this one is.

    Attributes:
      index: 0 for the first.
      count: How many there are.
    """

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and that puts the results together."""
        return self.index == 0

    def finish(self) -> None:
        """Waits until all processes have called it."""
        if self.count > 1:
            jax.distributed.shutdown()


def start(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Processes:
    """Joins the processes of a job; to be called before JAX is used.

    Args:
      coordinator: Address and port of the first process. What is None is found out by JAX where it
        knows how, such as under SLURM and on a TPU pod slice.
      processes: Number of processes.
      process: Which one this is, from 0.

    Raises:
      ValueError: If JAX cannot find out what is missing, or the processes do not meet.
    """
    # Nothing is computed across processes; else CPUs would be connected for it, and say so.
    jax.config.update("jax_cpu_collectives_implementation", None)
    try:
        jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=WEEKS)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes could not be joined: {error}; outside of SLURM, Open MPI and TPU pods "
            "give --coordinator HOST:PORT --num-processes N --process-id I to each"
        ) from None
    return Processes(jax.process_index(), jax.process_count())
