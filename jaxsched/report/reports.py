"""What the page of each kind of study shows; `STUDIES` has an entry for each."""

from __future__ import annotations

import dataclasses
import json
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from jaxsched import clocks
from jaxsched.machine import faults
from jaxsched.report import (
    advice,
    figures,
    gantt,
    page,
    plots,
    replay_figures,
    study_tables,
)
from jaxsched.report.formats import said_rounds, said_seconds
from jaxsched.report.page import Report
from jaxsched.report.sweep_figures import drawings
from jaxsched.report.sweep_view import SweepView
from jaxsched.report.tables import Answer
from jaxsched.studies import frames, read_sweep, store
from jaxsched.studies.curves import CURVES
from jaxsched.studies.serving import ANY
from jaxsched.workloads.texts import read_prediction

Config = dict[str, Any]
"""The keys of a stored configuration."""

NOT_MODELLED = (
    "prefix caching, several workers, speculative decoding, the time of scheduling itself"
)

NOT_ON_PAPER = "; chunked prefill, blocks of cache; a preempted request generates its tokens again"
"""What the papers' worker leaves out besides."""

BELOW, IN_PYTHON = (
    "config.toml is the configuration below",
    'In Python: jaxsched.studies.store.read_results("DIR").',
)


def write_report(folder: Path) -> tuple[Answer, list[Path]]:
    """Writes report.html and figures/ into a folder of results; returns its table and the paths.

    Raises:
      FileNotFoundError: If there are no results, or nothing of them is finished.
      ValueError: If a file is damaged, or figures/ is a link to somewhere else.
    """
    trained = folder / "report.json"  # of jaxsched predict train, which keeps no manifest
    if trained.exists():
        from jaxsched.report import predictor_page  # noqa: PLC0415 - it imports optax and orbax

        with faults.reading(trained, "a report of a predictor", "train it again"):
            found = json.loads(trained.read_text(encoding="utf-8"))
            answer = predictor_page.answer_of(found)
        return answer, predictor_page.write(folder, found)
    report = of_folder(folder)
    return report.answer, page.write_page(folder, report.drawings, page.page(report))


def of_folder(folder: Path) -> Report:
    """The report of a folder of results of any command."""
    manifest = store.manifest(folder)
    path = folder / "manifest.json"
    with faults.reading(path, "a manifest of jaxsched", "give another folder"):
        config = tomllib.loads(manifest["config"])
    make = next((make for is_one, make in STUDIES.values() if is_one(config)), None)
    if make is None:
        raise ValueError(
            f"{path}: its configuration is of no known study; expected one of {', '.join(STUDIES)}"
        )
    return completed(make(folder, config), manifest, config)


def completed(report: Report, manifest: Mapping[str, Any], config: Config) -> Report:
    """The report with what is the same in all of them; its figures are laid out."""
    return dataclasses.replace(
        report, manifest=manifest, assumed=assumed(config), drawings=page.laid_out(report.drawings)
    )


def _name(folder: Path) -> str:
    return folder.resolve().name


def _again(command: str) -> str:
    return f"jaxsched {command} config.toml --out DIR\njaxsched report DIR"


def backlog_report(folder: Path, config: Config) -> Report:
    """The paper's experiment."""
    frame = store.read_results(folder)
    n = frame["n"].max()
    largest = frame[frame["n"] == n]
    told = []
    for prediction in largest["prediction"].unique():
        rows = largest[largest["prediction"] == prediction]
        text = advice.recommended(rows, "mean_latency", "mean latency", said_rounds, same=["lane"])
        told += [f"{read_prediction(prediction).label}: {text}"] if text else []
    return Report(
        title=f"Backlogs: {_name(folder)}",
        lead=f"{len(frame):,} simulations of a backlog, under each policy and prediction.",
        answer=study_tables.backlog_job(frame),
        commands=_again("run"),
        advice=(*told, advice.left_out(frame)),
        drawings=tuple(figures.of_backlog(frame)),
        remark=f"{BELOW}. {IN_PYTHON}",
    )


def serving_report(folder: Path, config: Config) -> Report:
    """Latency against the rate of arrivals."""
    frame = store.read_results(folder)
    rate = study_tables.told_rate(frames.summarize_serving(frame))
    chosen = frame[frame["rate"] == rate]
    blind = chosen[chosen["prediction"] == ANY]
    told = [f"At {rate:g} requests/s, the most that fcfs sustains here:"]
    for prediction in [x for x in chosen["prediction"].unique() if x != ANY] or [ANY]:
        rows = chosen[chosen["prediction"] == prediction]
        rows = pd.concat([blind, rows]) if prediction != ANY else rows
        text = advice.recommended(
            rows, "mean_e2el", "mean end-to-end latency", said_seconds, "p99_e2el", ["lane"]
        )
        label = "" if prediction == ANY else f"{read_prediction(prediction).label}: "
        level = advice.level_kept(rows)
        told += [" ".join(filter(None, (f"{label}{text}", level)))] if text else []
    return Report(
        title=f"Serving: {_name(folder)}",
        lead=f"{len(frame):,} simulated streams at {frame['rate'].nunique()} rates of arrivals.",
        answer=study_tables.serving_job(frame),
        commands=_again("run"),
        advice=(*told, advice.left_out(frame)),
        drawings=tuple(figures.of_serving(frame)),
        remark=f"{BELOW}. {IN_PYTHON}",
    )


def sweep_report(folder: Path, config: Config) -> Report:
    """Every combination of the values of some axes; what there is of one that is not finished."""
    sweep = SweepView(read_sweep(folder, partial=True))
    finished = (folder / "results.parquet").exists()
    unfinished = "" if finished else ", not finished yet"
    seen = sweep.slice([])
    form, tail = (said_rounds, "") if sweep.time() == "rounds" else (said_seconds, "p99_e2el")
    told = advice.recommended(
        seen.rows, "mean_latency", "mean latency", form, tail, ["seed", "lane"]
    )
    return Report(
        title=f"Sweep {_name(folder)}",
        lead=f"{len(sweep.frame):,} simulations{unfinished}.",
        answer=study_tables.sweep_policies(sweep),
        commands=_again("sweep"),
        advice=(f"{seen.held}:", told, advice.left_out(seen.rows)) if told else (),
        drawings=tuple(drawings(sweep)),
        axes=tuple(_axes(sweep)),
        remark=f"{BELOW}; the same table comes out, row by row, on "
        'any number of devices and processes. In Python: jaxsched.read_sweep("DIR").',
    )


def _axes(sweep: SweepView) -> Iterable[tuple[str, ...]]:
    for name, axis in sweep.axes.items():
        values = [axis.said(value) for value in sweep.values[name]]
        yield name.replace("_", " "), f"{len(values):,}", "; ".join(_few(values))
    instances = len(sweep.frame[["seed", "lane"]].drop_duplicates())
    yield "instances", f"{instances:,}", "seeds × lanes at each point"


def tuning_report(folder: Path, config: Config) -> Report:
    """A tuned rule."""
    tests = store.read_results(folder)
    methods, curves = (
        store.read_parquet(folder / f"{x}.parquet")[0] for x in ("methods", "curves")
    )
    subject = _subject(config)
    title = (
        f"{subject}, n = {config['num_requests']:,} requests, M = {config['memory']:,} tokens, "
        f"{tests['lane'].nunique()} test instances"
    )
    answer = study_tables.tuning(title, methods, tests)
    written = answer.data[answer.data["method"] == methods["method"].iloc[-1]]
    told = [
        f"{read_prediction(row['prediction']).label}{_at_load(row['load'])}: the rule takes "
        f"{row[name]:.1%} ± {row[f'{name}_ci']:.1%} of the mean latency of {name[9:]}."
        for _, row in written.iterrows()
        for name in tests
        if name.startswith("ratio_to_")
    ]
    objective = "h_sf" if "score" not in tests else f"fcfs ({config.get('objective', 'mean')})"
    drawn = figures.score_against_work(curves, subject, objective)
    about = "Best validation score so far against the work done."
    rule = f"{_name(folder).removeprefix('tune_') or 'rule'}.toml"
    return Report(
        title=f"Tuning: {_name(folder)}",
        lead="A rule of scheduling, searched on simulated requests.",
        answer=answer,
        commands=_again("tune"),
        advice=tuple(told),
        drawings=(plots.Drawing("score_against_work", drawn, "The search", about),),
        remark=f"{BELOW}. The rule is DIR/{rule}: --policies tuned:DIR/{rule}.",
    )


def _at_load(load: float) -> str:
    return f", load {load:g}" if load else ""


def trace_report(folder: Path, config: Config) -> Report:
    """A trace under each policy."""
    path = folder / "results.parquet"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; has `jaxsched simulate` finished there?")
    rows, texts = store.read_parquet(path)
    distributions, timeline = (_if_there(folder / f"{x}.parquet") for x in CURVES)
    notes = json.loads(texts.get("notes", "[]"))
    if distributions.empty and timeline.empty:
        notes.append("There are no curves in this folder to draw; simulate the trace again.")
    elif timeline.empty and NO_TIMELINE not in notes:
        notes.append(NO_TIMELINE)
    return replay_report(_name(folder), config, rows, distributions, timeline, notes)


NO_TIMELINE = "There is no timeline of a run that was cut off, or of the worker of an engine."


def _if_there(path: Path) -> pd.DataFrame:
    return store.read_parquet(path)[0] if path.exists() else pd.DataFrame()


def replay_report(
    name: str,
    config: Config,
    rows: pd.DataFrame,
    distributions: pd.DataFrame,
    timeline: pd.DataFrame,
    notes: Iterable[str],
) -> Report:
    """The report of a trace, from the tables of `jaxsched simulate`."""
    if "clock" in rows:
        compared = "mean_e2el", "mean end-to-end latency", said_seconds, "p99_e2el"
    else:
        compared = "mean_latency", "mean latency", said_rounds, "latency_p99"
    told = advice.recommended(rows, *compared)
    one = "It is one trace: how much of this would hold for another one, it cannot say."
    return Report(
        title=f"Replay: {name}",
        lead=f"{int(rows['n'].iloc[0]):,} requests of a trace under {len(rows)} policies.",
        answer=study_tables.replay(rows),
        commands=replay_command(config),
        advice=(told, advice.level_kept(rows), one, advice.left_out(rows)) if told else (),
        notes=tuple(notes),
        drawings=tuple(replay_figures.of_replay(rows, distributions, timeline)),
    )


def capacity_report(folder: Path, config: Config) -> Report:
    """The largest rate at which each policy keeps a service level."""
    path = folder / "capacity.parquet"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist yet; run jaxsched capacity again to go on")
    told = store.read_parquet(path)[0]
    return Report(
        title=f"Capacity: {_name(folder)}",
        lead=f"The largest rate at which {len(told)} policies keep a service level on a trace.",
        answer=study_tables.capacity_table(told, config["slo"], config["at"]),
        commands="jaxsched capacity TRACE --slo … --out DIR\njaxsched report DIR",
        remark=f"The options are the configuration below. {IN_PYTHON}",
    )


def worst_case_report(folder: Path, config: Config) -> Report:
    """An input on which a policy does badly."""
    found = store.read_results(folder)
    drawn = gantt.of_case(folder / "worst_case.csv", config["memory"], config["policy"])
    about = "Which requests run when: red what was evicted. Below it the memory in use."
    words = (
        f"--{name}" if value is True else f"--{name} {value}" for name, value in config.items()
    )
    return Report(
        title=f"Worst case: {_name(folder)}",
        lead="An input on which a policy does badly, evolved from those that are known.",
        answer=study_tables.worst_case_table(found),
        commands=" \\\n    ".join(["jaxsched worst-case", *words]),
        drawings=(plots.Drawing("worst_case", drawn, "Its schedules", about),) if drawn else (),
        remark="The requests are in DIR/worst_case.csv.",
    )


def replay_command(config: Config) -> str:
    """The command that makes these results again."""
    trace, options = config["trace"], dict(config)
    if isinstance(trace, dict):
        trace, options = trace["path"], {**config, **trace}
    words = []
    for key, value in options.items():
        if key in ("trace", "path", "sha256") or value in (False, []) or (key, value) in DEFAULTS:
            continue
        option = f"--{key.replace('_', '-')}"
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words.append(option if value is True else f"{option} {shlex.quote(text)}")
    lines = [f"jaxsched simulate {shlex.quote(str(trace))}", *words, "--report report.html"]
    return " \\\n    ".join(lines)


DEFAULTS = (("format", "auto"), ("arrivals", "backlog"))
"""Options of `simulate` that need not be said."""


def _subject(config: Config) -> str:
    """What a rule is tuned for, in a few words."""
    trace = config.get("trace")
    if trace:
        return Path(trace["path"]).name
    return ", ".join([config["lengths"]["source"], *_limited(config["lengths"])])


def assumed(config: Config) -> tuple[tuple[str, str], ...]:
    """What a configuration takes for granted, in words; nothing of a search for a worst case."""
    if _is_worst_case(config):
        return ()
    workers = config.get("workers") or [config.get("worker") or "paper"]
    paper = any(name == "paper" for name in workers)
    most = _joined(config.get("max_batch") or 0, "{}")
    rules = "the papers'" if workers == ["paper"] else ", ".join(workers)
    worker = f"one, with {_joined(config['memory'], '{:,}')} tokens of KV cache; its rules: {rules}"
    rows = [
        ("requests", _requests(config)),
        ("worker", worker + (f"; at most {most} requests run together" if most != "0" else "")),
        ("predictions", _predictions(config)),
        ("arrivals", _arrivals(config)),
        ("time", "; ".join(map(_clock, config.get("clocks") or [config.get("clock") or "rounds"]))),
        ("service level", _limits(config)),
        ("random", _random(config)),
        ("not modelled", NOT_MODELLED + (NOT_ON_PAPER if paper else "")),
    ]
    return tuple((name, text) for name, text in rows if text)


def _joined(value: Any, form: str) -> str:
    values = _few(value if isinstance(value, list) else [value])
    return ", ".join(form.format(x) if not isinstance(x, str) else x for x in values)


def _few(values: list[Any]) -> list[Any]:
    """The values, or of many the first ones and the last."""
    return values if len(values) <= 12 else [*values[:10], "…", values[-1]]


def _requests(config: Config) -> str:
    trace = config.get("trace")
    if isinstance(trace, dict):
        trace, digest = trace.get("path"), trace.get("sha256", "")
    else:
        digest = config.get("sha256", "")
    if trace:
        text = f"those of {trace}" + (f", SHA-256 {digest}" if digest else "")
        return f"the first {config['limit']:,} of {text[9:]}" if config.get("limit") else text
    if "workloads" in config:
        return (
            f"{'; '.join(config['workloads'])}; {_joined(config['num_requests'], '{:,}')} of them"
        )
    lengths, n = config.get("lengths", {}), _joined(config["num_requests"], "{:,}")
    kind = f"drawn, lengths like {lengths.get('source', 'lmsys')}"
    return ", ".join([kind, *_limited(lengths), f"{n} in an instance"])


def _limited(lengths: Config) -> list[str]:
    limits = ((lengths.get(key), words) for key, words in LIMITS.items())
    return [f"{what} up to {limit:,}" for limit, what in limits if limit]


LIMITS = {"max_output": "outputs", "max_total": "prompt + output"}
"""Keys of [lengths], and what they limit."""


def _predictions(config: Config) -> str:
    told = config.get("predictions", [config["interval"]] if config.get("interval") else [])
    few = told if len(told) <= 12 else [*told[:10], "…"]
    labels = (x if x == "…" else f"{read_prediction(x).label} ({x})" for x in few)
    return "; ".join(labels) or "those of the trace, or none"


def _arrivals(config: Config) -> str:
    if "rates" in config:
        kind = "those of the trace, scaled to" if config.get("trace") else "Poisson,"
        return f"{kind} {_joined(config['rates'], '{:g}')} requests per second"
    texts = config.get("arrivals", "backlog")
    words = {"backlog": "backlog: all requests are there at the start", "trace": "as in the trace"}
    return "; ".join(words.get(x, x) for x in ([texts] if isinstance(texts, str) else texts))


def _clock(name: str) -> str:
    if name == "rounds":
        return "rounds: in one round every running request generates one token"
    preset = clocks.PRESETS.get(name)
    if preset is None:
        return f"clock {name}"
    return f"clock {name}: {preset.about} {preset.source}; {preset.fit}; nothing was measured here"


def _limits(config: Config) -> str:
    limits = {"TTFT": config.get("ttft_limit"), "TPOT": config.get("tpot_limit")}
    given = [f"{name} ≤ {limit:g} s" for name, limit in limits.items() if limit is not None]
    return ", ".join([*given, *([f"{config['slo']} (seconds)"] if config.get("slo") else [])])


def _random(config: Config) -> str:
    if "lanes" not in config:
        return f"seed {config['seed']}" if "seed" in config else ""
    seeds = _joined(config.get("seeds", config.get("seed", 0)), "{}")
    if "validation_lanes" in config:
        kept, last = config["validation_lanes"], config["test_lanes"]
        return (
            f"{config['lanes']:,} fresh instances in a step of the search, {kept:,} others to "
            f"choose on and {last:,} to test on, seed {seeds}"
        )
    return f"{config['lanes']:,} instances, seed {seeds}; the same ones for every policy"


def _is_worst_case(config: Config) -> bool:
    return {"against", "alpha"} <= {*config}


STUDIES: dict[str, tuple[Callable[[Config], bool], Callable[[Path, Config], Report]]] = {
    "tune": (lambda config: "descent" in config, tuning_report),
    "serving": (lambda config: config.get("job") == "serving", serving_report),
    "sweep": (lambda config: "lanes" in config and "workloads" in config, sweep_report),
    "capacity": (lambda config: {"at", "slo"} <= {*config}, capacity_report),
    "worst-case": (_is_worst_case, worst_case_report),
    "simulate": (lambda config: "trace" in config and "lanes" not in config, trace_report),
    "run": (lambda config: {"lanes", "num_requests"} <= {*config}, backlog_report),
}
"""Kinds of studies by name: whether a configuration is one of it, and folder and configuration ->
its page, as far as the kind matters; the first that takes a configuration is the one."""
