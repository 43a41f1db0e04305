"""Instances: joining them, and the checks that refuse bad ones. See test_simulate for the texts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsched as js
from jaxsched.instance import MAX_MEMORY, MAX_ROUND, canonical, check_instance, valid_lanes

EXAMPLE = js.Instance(
    prompt=[2, 1, 3, 1], output=[4, 6, 2, 3], lower=[2, 1, 1, 3], upper=[5, 8, 4, 3], memory=9
)


def ones(*shape, **changes):
    one = np.ones(shape, np.int32)
    fields = dict(prompt=one, output=one, lower=one, upper=one, memory=2) | changes
    return js.Instance(**fields)


def test_shapes():
    assert (EXAMPLE.n, EXAMPLE.lanes) == (4, ())
    assert (ones(2, 3, 5).n, ones(2, 3, 5).lanes) == (5, (2, 3))


def test_is_a_pytree():
    doubled = jax.tree.map(lambda leaf: 2 * leaf, ones(2, 3))
    assert isinstance(doubled, js.Instance) and doubled.memory == 4 and doubled.arrival is None


@pytest.mark.parametrize("lanes", [(), (3,), (2, 3)])
def test_accepts_what_is_right(lanes):
    check_instance(EXAMPLE)
    one = np.ones((*lanes, 4), np.int32)
    full = dict(arrival=0 * one, point=one, num_requests=np.full(lanes, 4))
    check_instance(ones(*lanes, 4, memory=np.full(lanes, 2), **full), needs_point=True)
    check_instance(ones(*lanes, 4, arrival=MAX_ROUND * one, num_requests=0))


def test_accepts_the_largest_numbers():
    big = np.full((1, 2), MAX_MEMORY // 2)
    check_instance(ones(1, 2, prompt=big, output=big, memory=MAX_MEMORY))
    check_instance(ones(1, 2, upper=np.full((1, 2), 2**31 - 2)))


def test_unsigned_lengths_do_not_wrap_in_the_checks():
    near = np.full((1, 2), 200, np.uint8)
    with pytest.raises(ValueError, match=r"request 0: prompt \+ output is 400; expected at most"):
        check_instance(ones(1, 2, prompt=near, output=near, memory=np.uint16(399)))
    with pytest.raises(ValueError, match=f"upper is {2**64 - 1}; expected 1 to"):
        check_instance(ones(1, 2, upper=np.full((1, 2), 2**64 - 1, np.uint64)))
    with pytest.raises(TypeError, match=r"memory: got dtype object \(holds "):
        check_instance(ones(1, 2, memory=2**70))


def test_names_the_first_lane_of_several_axes():
    prompt = np.ones((2, 3, 4), np.int32)
    prompt[1, 2, 3] = prompt[1, 1, 2] = 0
    with pytest.raises(ValueError, match="lane 1/1, request 2: prompt is 0; expected 1 to"):
        check_instance(ones(2, 3, 4, prompt=prompt))
    with pytest.raises(ValueError, match="^request 3: prompt is 0; expected 1 to"):
        check_instance(ones(4, prompt=prompt[1, 2]))


def test_padding_may_hold_anything():
    odd = np.array([1, -5, 2**31 - 1])
    check_instance(ones(3, prompt=odd, output=odd, upper=odd, arrival=odd, num_requests=1))


def test_canonical_form_clips_what_would_wrap():
    """So that the checks inside jit see a wrong number as wrong."""
    huge = ones(3, upper=np.array([2**32 + 1, 2**31, 7]), memory=np.uint32(2**31))
    whole = canonical(huge)
    assert whole.upper.dtype == np.int32 and whole.upper.tolist() == [2**31 - 1, 2**31 - 1, 7]
    assert whole.memory == 2**31 - 1 and whole.num_requests == 3
    assert canonical(ones(2, 3)).memory.tolist() == [2, 2]


def test_checks_inside_jit_are_those_outside():
    """Value by value, for every field."""
    rng = np.random.default_rng(0)
    numbers = np.array([-1, 0, 1, 2, 5, MAX_MEMORY, MAX_ROUND, MAX_ROUND + 1, 2**31 - 1])
    names = ("prompt", "output", "lower", "upper", "arrival", "point")
    batch = {name: np.ones((400, 2), np.int32) for name in names}
    batch |= {"memory": np.full(400, 5, np.int32), "num_requests": np.full(400, 2, np.int32)}
    for lane in range(400):
        for name in rng.choice(list(batch), 2):
            batch[name][lane] = rng.choice(numbers)

    def accepted(lane):
        try:
            check_instance(js.Instance(**{name: value[lane] for name, value in batch.items()}))
        except ValueError:
            return False
        return True

    expected = [accepted(lane) for lane in range(400)]
    found = jax.jit(valid_lanes)(js.Instance(**jax.tree.map(jnp.asarray, batch)))
    assert 50 < sum(expected) < 350
    assert found.tolist() == expected


# ---- stack


def test_stack_pads_and_counts():
    stacked = js.stack([EXAMPLE, ones(2, memory=7), EXAMPLE])
    assert stacked.prompt.tolist() == [[2, 1, 3, 1], [1, 1, 1, 1], [2, 1, 3, 1]]
    assert stacked.num_requests.tolist() == [4, 2, 4]
    assert stacked.memory.tolist() == [9, 7, 9]
    assert stacked.arrival is None and stacked.point is None
    check_instance(stacked)


def test_stack_keeps_counts_and_optional_fields():
    one = ones(3, num_requests=2, arrival=np.arange(3), point=1 + np.arange(3))
    stacked = js.stack([one, ones(4, arrival=np.arange(4), point=np.full(4, 9))])
    assert stacked.num_requests.tolist() == [2, 4]
    assert stacked.arrival.tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
    assert stacked.point.tolist() == [[1, 2, 3, 1], [9, 9, 9, 9]]


@pytest.mark.parametrize(
    ("instances", "error", "text"),
    [
        ([], ValueError, "stack: expected at least one instance, got none"),
        ([EXAMPLE, dict(prompt=[1])], TypeError, "stack: item 1 is .*; expected an Instance"),
        ([EXAMPLE, ones(2, 3)], ValueError,
         r"stack: instance 1 has lane axes \(2,\); expected arrays of shape \[n\]"),
        ([EXAMPLE, ones(4, arrival=np.ones(4, int))], ValueError,
         "stack: instance 0 has no arrival; expected it in all"),
        ([ones(4, point=np.ones(4, int)), EXAMPLE], ValueError,
         "stack: instance 1 has no point; expected it in all"),
        ([EXAMPLE, ones(3, output=[1, 1])], ValueError,
         r"stack: instance 1: output: got shape \[2\]; expected \[3\], as prompt has"),
        ([EXAMPLE, ones(3, memory=[9, 9])], ValueError,
         r"stack: instance 1: memory: got shape \[2\]; expected \[\]"),
        ([ones(3, upper=[1.0, 2.0, 3.0])], TypeError,
         "stack: instance 0: upper: got dtype float64.*expected integers"),
        ([ones(3, num_requests=4)], ValueError,
         "stack: instance 0: num_requests is 4; expected 0 to 3"),
    ],
)  # fmt: skip
def test_stack_refuses(instances, error, text):
    with pytest.raises(error, match=text):
        js.stack(instances)
