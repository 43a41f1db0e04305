"""Policies as values: names, equality, and the lookup of wrong names."""

from __future__ import annotations

import dataclasses
import re

import pytest

import jaxsched as js
from jaxsched.engines.reference import EXTENDED, RULES
from jaxsched.policies import NUMBERED, SHIPPED
from jaxsched.testing.choices import check_choices

ALL = {**RULES, **EXTENDED}


def test_each_has_a_rule_in_the_reference():
    assert {make().name for make in SHIPPED.values()} == set(ALL)


@pytest.mark.parametrize("name", SHIPPED)
def test_made_twice_is_equal(name):
    one, other = js.policy(name), SHIPPED[name]()
    assert one == other and hash(one) == hash(other)
    assert dataclasses.replace(one, name="another") != one


def test_all_differ():
    assert len({js.policy(name) for name in SHIPPED}) == len(ALL) == len(SHIPPED) - 1


def test_names():
    assert js.policy("a_min") == js.a_min() == js.a_min(refine="on_eviction")
    assert js.policy("a_min:every_round") == js.a_min("every_round") != js.a_min()
    for name in ALL:
        assert js.policy(name).name == name


def test_names_with_numbers():
    assert js.policy("fcfs:watermark=0.05") == js.fcfs(watermark=0.05)
    assert js.policy("fcfs:watermark=0.05").name == "fcfs:watermark=0.05"
    assert js.policy("fcfs:watermark=0") == js.fcfs()
    assert js.policy("fcfs:watermark=0.05").kind == js.policy("fcfs:watermark=0.5").kind
    assert js.policy("gsa_spec:patience=64") == js.gsa_spec()
    assert js.policy("gsa_spec:patience=1").name == "gsa_spec:patience=1"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fcfs:watermark=", "policy 'fcfs:watermark=': '' is not a number"),
        ("fcfs:watermark=1%", "'1%' is not a number"),
        ("fcfs:watermark=1.5", "fcfs: watermark is 1.5; expected 0 to 1"),
        ("gsa_spec:patience=0", "gsa_spec: patience is 0.0; expected a whole number from 1 on"),
        ("gsa_spec:patience=2.5", "expected a whole number from 1 on"),
        ("gsa_spec:patience=nan", "expected a whole number from 1 on"),
        ("a_min=3", "policy 'a_min=3' is unknown"),
    ],
)
def test_wrong_numbers_are_refused(name, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        js.policy(name)


@pytest.mark.parametrize("name", ["amin", "", "A_MIN", "a_min:never", None])
def test_wrong_names_list_the_right_ones(name):
    with pytest.raises(ValueError) as caught:
        js.policy(name)
    text = str(caught.value)
    assert text.startswith(f"policy {name!r} is unknown; expected one of ")
    for right in (*SHIPPED, *NUMBERED):
        assert right in text


@pytest.mark.parametrize("refine", ["never", "", None])
def test_wrong_readings_list_the_right_ones(refine):
    with pytest.raises(ValueError, match="refine is .*; expected one of .*every_.*on_evict"):
        js.a_min(refine=refine)


@pytest.mark.parametrize("factory", [js.svf, js.sorted_f])
def test_wrong_lengths_list_the_right_ones(factory):
    with pytest.raises(ValueError, match="^(svf|sorted_f): by is 'o'; expected one of .*'output'"):
        factory("o")


@pytest.mark.parametrize("name", ALL)
def test_promises(name):
    policy = js.policy(name)
    assert policy.shortest_first == (name == "h_sf")
    assert policy.hindsight == (name == "h_sf" or name.endswith(":output"))
    assert policy.needs_point == (name == "mc_sf" or name.endswith(":point"))
    assert policy.needs_point == ALL[name].needs_point
    assert (policy.rank is None, policy.quantum is None) == (
        ALL[name].rank is None,
        ALL[name].quantum is None,
    )
    check_choices(policy)
