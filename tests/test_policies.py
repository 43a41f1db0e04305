"""Policies as values: names, equality, and the lookup of wrong names."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import sys

import pytest

import jaxsched as js
from jaxsched.policies import NUMBERED, SHIPPED, policy_files
from jaxsched.testing.choices import check_choices
from tests import oracle
from tests.oracle import ALL


def test_each_has_a_rule_by_hand():
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
    start = rf"policy {name!r} is unknown( \(did you mean \S+\?\))?; expected one of "
    assert re.match(start, text) and ("did you mean" in text) == (
        name in ("amin", "A_MIN", "a_min:never")
    )
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
    assert policy.choices.shortest_first == (name == "h_sf")
    assert policy.hindsight == (name == "h_sf" or name.endswith(":output"))
    assert policy.needs_point == (
        name in ("mc_sf", "priority", "past_future", "tie", "trail") or name.endswith(":point")
    )
    assert policy.reads_predictions == (name not in oracle.BLIND)
    assert (policy.rank is None, policy.quantum is None) == (
        ALL[name].rank is None,
        ALL[name].quantum is None,
    )
    check_choices(policy)


# ---- policies of one's own, from a file

MINE = """
import jaxsched as js

number = 5

def halfway(r):
    return (r.lower + r.upper) // 2

careful = js.Policy("careful", estimate=halfway, reserve=lambda r: r.upper)
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_functions_and_policies_of_a_file(mine):
    instance = js.Instance(prompt=[2, 1], output=[4, 6], lower=[2, 5], upper=[6, 7], memory=9)
    one, other = js.policy(f"{mine}:halfway"), js.policy(f"{mine}:careful")
    assert (one.name, other.name) == (f"{mine}:halfway", f"{mine}:careful")
    assert one == js.policy(f"{mine}:halfway") and one.estimate is other.estimate
    assert one.reads == {"lower", "upper", "estimate", "generated"}
    assert js.simulate(instance, one).completion.tolist() == [4, 8]
    assert js.simulate(instance, other).completion.tolist() == [4, 10]


def test_a_file_is_told_by_its_digest(mine):
    digest = hashlib.sha256(mine.read_bytes()).hexdigest()
    assert policy_files(f"{mine}:halfway") == {mine: digest}
    assert policy_files("a_min") == {}
    (path,) = policy_files("tuned:sharegpt_one")
    assert path.name == "sharegpt_one.toml"


def test_a_file_that_changes_is_read_anew(mine, monkeypatch):
    """Also where its size and time stay the same, by which Python knows what it has compiled."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for new in ("r.upper", "r.lower", "r.point"):
        mine.write_text(MINE.replace("(r.lower + r.upper) // 2", new))
        os.utime(mine, (1e9, 1e9))
        assert js.policy(f"{mine}:halfway").reads & {"lower", "upper", "point"} == {new[2:]}
    assert [path.name for path in mine.parent.iterdir()] == [mine.name]


def test_wrong_files_and_names_are_refused(mine):
    with pytest.raises(ValueError, match="has nothing of the name 'half'; expected a Policy, or a"):
        js.policy(f"{mine}:half")
    with pytest.raises(ValueError, match="has int of the name 'number'"):
        js.policy(f"{mine}:number")
    with pytest.raises(OSError, match="gone.py"):
        js.policy(f"{mine.with_name('gone.py')}:halfway")
    mine.write_text("1 / 0")
    with pytest.raises(ValueError, match="mine.py: ZeroDivisionError: division by zero"):
        js.policy(f"{mine}:halfway")
    with pytest.raises(ValueError, match="FILE.py:NAME"):
        js.policy(str(mine))
