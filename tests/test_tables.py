"""Tables: no number is cut, whatever the width; CSV and JSON say all; names are no markup."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from jaxsched.report import advice, formats, tables
from jaxsched.report.tables import Answer, PrintedTable, alarm

WIDE = tables.table(
    [f"policy:number_{i}" for i in range(12)],
    [
        ("first", [["latency", *(f"{i}23,456" for i in range(12))]]),
        ("second", [["latency", *(f"{i}23,999" for i in range(12))], ["short", "7"]]),
        ("left out", []),
    ],
)
DATA = pd.DataFrame(
    {
        "policy": ["a_max", "my, own"],
        "n": [2, 3],
        "mean": [1 / 3, math.nan],
        "rate": [math.inf, 0.5],
        "seed": pd.array([None, 5], "Int64"),
    }
)


def printed(one: PrintedTable, width: int, terminal: bool) -> list[str]:
    out = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    tables.print_answer(out, Answer("a title", (one,), ("a note",), DATA))
    return out.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 300])
@pytest.mark.parametrize("terminal", [True, False])
def test_no_number_is_cut(width: int, terminal: bool) -> None:
    lines = printed(WIDE, width, terminal)
    words = " ".join(lines).split()
    for number in [f"{i}23,{end}" for i in range(12) for end in ("456", "999")]:
        assert number in words
    assert "…" not in " ".join(lines) and "left out" not in " ".join(lines)
    if terminal:
        assert max(len(line.rstrip()) for line in lines) <= max(width, len(" number_11"))
    else:  # in one piece, however wide
        assert sum("number_" in line for line in lines) == 1


def test_a_table_is_turned_where_that_helps() -> None:
    one = tables.table([f"heading {i}" for i in range(9)], [("", [["x", *"123456789"]])])
    (turned,) = tables.fitted(one, 30)
    assert turned.headings == ("x",)
    assert turned.sections[0][1][8] == ("heading 8", "9")
    assert list(tables.fitted(one, 200)) == [one]


def test_names_are_no_markup() -> None:
    one = tables.table(["[red]h"], [("[bold]t[/bold]", [["[/]x", alarm("[1]")]])])
    text = "\n".join(printed(one, 80, True))
    assert "[red]h" in text and "[bold]t[/bold]" in text and "[/]x" in text and "[1]" in text


def test_csv_and_json_have_every_digit() -> None:
    answer = Answer("a title", (WIDE,), ("a note",), DATA)
    again = pd.read_csv(io.StringIO(tables.as_csv(answer)))
    assert again["mean"][0] == 1 / 3 and again["policy"][1] == "my, own"
    found = json.loads(tables.as_json(answer, ["left out: 3"]))
    assert found["title"] == "a title" and found["notes"] == ["a note", "left out: 3"]
    assert found["rows"] == [
        {"policy": "a_max", "n": 2, "mean": 1 / 3, "rate": None, "seed": None},
        {"policy": "my, own", "n": 3, "mean": None, "rate": 0.5, "seed": 5},
    ]


@pytest.mark.parametrize(
    ("mean", "half", "form", "text"),
    [
        (1093.4, 118.2, formats.rounds, "1,093 ± 120"),
        (401.2, 27.5, formats.rounds, "401 ± 28"),
        (1093.4, 1.44, formats.rounds, "1,093 ± 1.4"),
        (31.04, 12.31, formats.seconds, "31.0 ± 12.3"),
        (1.2345, 0.0567, ".3f", "1.234 ± 0.057"),
        (2e6, 123456.0, formats.rounds, "2,000,000 ± 120,000"),
        (5.0, math.nan, ".2f", "5.00"),
        (math.nan, math.nan, ".2f", "–"),
    ],
)
def test_a_mean_and_half_its_interval(mean: float, half: float, form: Any, text: str) -> None:
    assert formats.with_half(mean, half, form) == text


def frame(**means: list[float]) -> pd.DataFrame:
    rows = [
        {"policy": name, "lane": i, "mean": value, "p99": 10 * value, "status": "FINISHED"}
        for name, values in means.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_best_policy_that_a_server_can_have() -> None:
    table = frame(h_sf=[1, 1, 1], fcfs=[10, 20, 30], a_max=[5, 10, 15], mc_sf=[6, 12, 18])
    told = advice.recommended(table, "mean", "mean latency", formats.said_rounds, "p99", ["lane"])
    assert told.startswith("a_max has the shortest mean latency: 10.0 rounds.")
    assert "50.0% ± 0.0% less than that of fcfs (20.0 rounds)" in told
    assert "16.7% ± 0.0% less than that of mc_sf (12.0 rounds)" in told
    assert "Its P99 is 100 rounds (fcfs 200 rounds, mc_sf 120 rounds)." in told
    assert advice.left_out(table) == "Left out, as they are told the true lengths: h_sf."


def test_what_may_be_chance_is_no_advice() -> None:
    table = frame(fcfs=[10, 20, 30], a_max=[9, 21, 29])
    told = advice.recommended(table, "mean", "mean latency", formats.said_rounds, same=["lane"])
    assert "but not by much: fcfs cannot be told from it." in told and "less than" not in told
    single = frame(fcfs=[10.0], a_max=[9.95], mc_sf=[20.0])
    told = advice.recommended(single, "mean", "mean latency", formats.said_rounds)
    assert "fcfs cannot be told from it" in told
    # One that did not finish is not compared, and one alone is no choice.
    assert advice.recommended(frame(fcfs=[1.0], a_max=[math.nan]), "mean", "", ".1f") == ""


def test_a_longer_tail_is_said() -> None:
    table = frame(fcfs=[10.0], a_max=[5.0]).assign(p99=[20.0, 70.0])
    told = advice.recommended(table, "mean", "mean latency", formats.said_rounds, "p99")
    assert told.endswith("Its P99 is 70.0 rounds (fcfs 20.0 rounds): longer than that of fcfs.")


def test_who_keeps_the_service_level() -> None:
    table = frame(h_sf=[1.0], fcfs=[10.0], a_max=[5.0])
    assert advice.level_kept(table) == ""
    told = advice.level_kept(table.assign(goodput=[3.0, 1.0, 2.0]))
    assert told == "2.000 requests/s keep the service level under a_max; under fcfs 1."
    told = advice.level_kept(table.assign(goodput=1.0, attainment=[100.0, 99.5, 70.0]))
    assert told == "99.5 % of the requests keep the service level under fcfs."
