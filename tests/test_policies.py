"""Policies as values: names, equality, and the lookup of wrong names."""

from __future__ import annotations

import dataclasses

import pytest

import jaxsched as js
from jaxsched.policies import SHIPPED
from jaxsched.reference import RULES
from jaxsched.testing.choices import check_choices


def test_each_has_a_rule_in_the_reference():
    assert {make().name for make in SHIPPED.values()} == set(RULES)


@pytest.mark.parametrize("name", SHIPPED)
def test_made_twice_is_equal(name):
    one, other = js.policy(name), SHIPPED[name]()
    assert one == other and hash(one) == hash(other)
    assert dataclasses.replace(one, name="another") != one


def test_all_differ():
    assert len({js.policy(name) for name in SHIPPED}) == len(RULES) == len(SHIPPED) - 1


def test_names():
    assert js.policy("a_min") == js.a_min() == js.a_min(refine="on_eviction")
    assert js.policy("a_min:every_round") == js.a_min("every_round") != js.a_min()
    for name in RULES:
        assert js.policy(name).name == name


@pytest.mark.parametrize("name", ["amin", "", "A_MIN", "a_min:never", None])
def test_wrong_names_list_the_right_ones(name):
    with pytest.raises(ValueError) as caught:
        js.policy(name)
    text = str(caught.value)
    assert text.startswith(f"policy {name!r} is unknown; expected one of ")
    for right in SHIPPED:
        assert right in text


@pytest.mark.parametrize("refine", ["never", "", None])
def test_wrong_readings_list_the_right_ones(refine):
    with pytest.raises(ValueError, match="refine is .*; expected one of .*every_.*on_evict"):
        js.a_min(refine=refine)


@pytest.mark.parametrize("name", RULES)
def test_promises(name):
    policy = js.policy(name)
    assert policy.shortest_first == (name == "h_sf")
    assert policy.hindsight == (name in ("h_sf", "svf:output"))
    assert policy.needs_point == (name in ("mc_sf", "svf:point")) == RULES[name].needs_point
    check_choices(policy)
