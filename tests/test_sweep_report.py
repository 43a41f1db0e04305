"""`jaxsched report`: which figures a sweep gets, what they show, and a page on its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxsched as js
from jaxsched.cli import main
from jaxsched.report import page, plots, reports
from jaxsched.report.sweep_figures import drawings, front
from jaxsched.report.sweep_view import SweepView
from jaxsched.studies import axes
from jaxsched.studies import sweep as sweeps

TEXT = """
lanes = 6
num_requests = [10, 20]
memory = [150, 200]
workloads = ["uniform:1:60,prompt:1:20"]
arrivals = ["backlog", "poisson:0.1", "poisson:0.3"]
policies = ["h_sf", "a_max", "a_min"]
predictions = ["relative:0.2", "relative:0.5", "one:1:60"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep <1>")
    (folder / "sweep.toml").write_text(TEXT)
    assert main(["sweep", str(folder / "sweep.toml"), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def sweep(folder: Path) -> SweepView:
    return SweepView(js.read_sweep(folder))


def narrowed(sweep: SweepView, **values: Any) -> SweepView:
    """The sweep with only these values of some axes."""
    frame = sweep.frame
    for name, chosen in values.items():
        frame = frame[frame[name].isin(chosen)]
    return SweepView(frame.drop(columns=["width", "wasted"]))


def test_the_axes_that_vary_decide_on_the_figures(sweep: SweepView) -> None:
    names = [one.name for one in drawings(sweep)]
    assert names == [
        "ratio_against_width", "latency_against_n", "latency_against_load", "heat_map_width_n",
        "heat_map_width_memory", "heat_map_width_rate", "latency_against_wasted",
    ]  # fmt: skip
    one = narrowed(sweep, n=[20], arrivals=["backlog"], memory=[150])
    assert [drawing.name for drawing in drawings(one)] == [
        "ratio_against_width", "latency_against_wasted"
    ]  # fmt: skip
    without = narrowed(one, policy=["a_max"])
    without.frame["ratio_to_h_sf"] = np.nan
    assert [drawing.name for drawing in drawings(without)] == []


def test_lines_are_means_over_what_is_held(sweep: SweepView) -> None:
    drawing = next(one for one in drawings(sweep) if one.name == "latency_against_load")
    panel = next(a for a in drawing.figure.axes if a.get_title("left") == "length × (1 ± 0.5)")
    line = next(line for line in panel.lines if line.get_label() == "Aₘₐₓ")
    rows = sweep.frame.query(
        "policy == 'a_max' and prediction == 'relative:0.5' and n == 20 and memory == 150"
    )
    means = [rows.loc[rows["rate"] == rate, "mean_latency"].mean() for rate in (0.1, 0.3)]
    np.testing.assert_array_equal(line.get_xdata(), [0.1, 0.3])
    np.testing.assert_allclose(line.get_ydata(), means)
    assert "n = 20, memory = 150" in drawing.caption and "6 instances" in drawing.caption


def test_cells_are_means_over_what_is_held(sweep: SweepView) -> None:
    drawing = next(one for one in drawings(sweep) if one.name == "heat_map_width_memory")
    panel = next(a for a in drawing.figure.axes if a.get_title() == "Aₘₐₓ")
    image = panel.images[0].get_array()
    rows = sweep.frame.query(
        "policy == 'a_max' and n == 20 and arrivals == 'backlog' and memory == 200 and "
        "prediction == 'relative:0.2'"
    )
    assert image.shape == (2, 2)
    assert image[1, 0] == pytest.approx(rows["ratio_to_h_sf"].mean())


def test_many_values_become_bins(sweep: SweepView) -> None:
    frame = sweep.frame.drop(columns=["width", "wasted"]).astype({"prediction": object})
    more = [
        frame.assign(prediction=f"relative:{i / 20}", prediction_kind="relative",
                     prediction_parameter=i / 20, ratio_to_h_sf=float(i))
        for i in range(1, 17)
    ]  # fmt: skip
    drawing = next(one for one in drawings(SweepView(pd.concat(more))) if "memory" in one.name)
    first = drawing.figure.axes[0].images[0].get_array()
    # Two widths in each of eight bins.
    np.testing.assert_allclose(first[0], np.arange(1.5, 17, 2))


def test_of_many_policies_the_best_are_drawn(sweep: SweepView) -> None:
    frame = sweep.frame.drop(columns=["width", "wasted"]).astype({"policy": object})
    more = [
        frame.assign(policy=frame["policy"] + f":{i}", mean_latency=frame["mean_latency"] * i)
        for i in range(2, 9)
    ]
    drawn = {one.name: one for one in drawings(SweepView(pd.concat([frame, *more])))}
    assert "The best 8 of 24 policies are drawn." in drawn["latency_against_n"].caption
    labels = [line.get_label() for line in drawn["latency_against_n"].figure.axes[0].lines]
    assert len(labels) == 8 and "h_sf:2" in labels and "fcfs:8" not in labels
    dots = drawn["latency_against_wasted"].figure.axes[0].collections[0]
    assert len(dots.get_offsets()) == 24 - 9


def test_the_front_is_what_nothing_beats() -> None:
    table = pd.DataFrame({"x": [3, 1, 2, 2, 4], "mean_latency": [5, 9, 5, 4, 4.5]})
    assert front(table, "x").to_numpy().tolist() == [[1, 9], [2, 4]]


def test_under_a_clock_there_are_seconds_and_energy(tmp_path: Path) -> None:
    text = TEXT.replace("lanes = 6", 'lanes = 2\nclocks = ["llama31_8b_h100"]')
    (tmp_path / "sweep.toml").write_text(text)
    assert main(["sweep", str(tmp_path / "sweep.toml"), "--out", str(tmp_path / "out")]) == 0
    sweep = SweepView(js.read_sweep(tmp_path / "out"))
    drawn = {one.name: one for one in drawings(sweep)}
    assert "latency_against_energy_per_token" in drawn
    assert drawn["latency_against_load"].figure.get_supylabel() == "mean latency (seconds)"
    assert drawn["latency_against_load"].figure.get_supxlabel().endswith("(requests per second)")


def test_the_page_needs_nothing_else(tmp_path: Path, capsys: Any) -> None:
    text = TEXT.replace("[150, 200]", "[150]").replace(', "poisson:0.1", "poisson:0.3"', "")
    (tmp_path / "sweep.toml").write_text(text.replace("[10, 20]", "[20]"))
    folder = tmp_path / "a <sweep>"
    assert main(["sweep", str(tmp_path / "sweep.toml"), "--out", str(folder)]) == 0
    assert main(["report", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    printed = capsys.readouterr().out
    assert str(folder / "report.html") in printed and "54 simulations" in printed
    for name in ("ratio_against_width", "latency_against_wasted"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "figures" / f"{name}.pdf").exists()
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) == 2 and all(s.startswith("data:image/svg+xml;base64,") for s in sources)
    for part in ("54 simulations", "h_sf", "num_requests = [20]", "jaxsched.read_sweep", "1.000 ±"):
        assert part in text
    assert text.count("<table") == text.count("</table>") == 3 and "a <sweep>" not in text
    assert page.page(reports.of_folder(folder)) == text


def test_what_is_not_finished_is_reported_as_such(
    folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text((folder / "manifest.json").read_text())
    parts = sweeps.kept_parts(out)
    parts.write(0, 100, js.read_sweep(folder).drop(columns="ratio_to_h_sf").iloc[:100])
    monkeypatch.setattr(plots, "save", lambda figure, stem: stem)
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "not finished yet" in page and "100 simulations" in page


def test_a_folder_of_something_else_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "expected a folder of results" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text('{"config": "a = 1"}')
    assert main(["report", str(tmp_path)]) == 1
    assert "manifest.json: damaged, or not a manifest" in capsys.readouterr().err


def test_values_are_said_in_words() -> None:
    assert axes.AXES["max_batch"].said(1000) == "max batch = 1,000"
    assert axes.AXES["predictions"].said("relative:0.5") == "length × (1 ± 0.5)"
    assert axes.AXES["arrivals"].said("poisson:2") == "poisson:2"


def test_an_axis_without_a_look_of_its_own(sweep: SweepView, monkeypatch: Any) -> None:
    cores = axes.Axis("cores", "cores", axes.CALL, least=1, label="cores of the worker")
    monkeypatch.setitem(axes.AXES, "cores", cores)
    frame = sweep.frame.drop(columns=["width", "wasted"])
    more = [frame.assign(mean_latency=frame["mean_latency"] * cores) for cores in (1, 2)]
    for number, part in enumerate(more, 1):
        part.insert(2, "cores", number)
    view = SweepView(pd.concat(more))
    assert [axis.column for axis in view.varying()][:2] == ["prediction", "cores"]
    drawn = {one.name: one for one in drawings(view)}
    assert drawn["heat_map_width_cores"].figure.get_supylabel() == "cores of the worker"
    assert "cores = 1, " in drawn["latency_against_n"].caption
