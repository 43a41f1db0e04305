"""The memory in use, round by round: where a request fits, and what an order of requests makes.

A request that starts in round p uses prompt + 1 + t - p tokens in each round t of the rounds
p ... p + output - 1.
"""

from __future__ import annotations

import numpy as np

from jaxsched.optimum.compiled import borrowing


@borrowing()
def earliest_start(used, memory, prompt, output, start):
    """The first round from `start` on in which the request can start."""
    p = start
    k = output - 1
    while k >= 0:
        free = memory - used[p + k]
        if prompt + k + 1 > free:
            # In round p + k fits only who starts so late that he is short enough by then.
            p += k + 1 - max(0, free - prompt)
            k = output - 1
        else:
            k -= 1
    return p


@borrowing()
def add(used, prompt, output, start):
    """Takes the memory of a request that starts in round `start`."""
    for k in range(output):
        used[start + k] += prompt + 1 + k


@borrowing()
def drop(used, prompt, output, start):
    """Gives it back."""
    for k in range(output):
        used[start + k] -= prompt + 1 + k


@borrowing()
def place(used, memory, prompt, output, known, order, start):
    """Starts requests in this order, each at its earliest fit from `known` on; their sum."""
    total = np.int64(0)
    for i in order:
        start[i] = earliest_start(used, memory, prompt[i], output[i], known[i])
        add(used, prompt[i], output[i], start[i])
        total += start[i]
    return total


@borrowing()
def copy_into(here, there):
    """Puts here what is there, as far as both go; numba would make an array for a slice of one."""
    for k in range(min(len(here), len(there))):
        here[k] = there[k]
