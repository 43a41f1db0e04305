"""Every snippet and command of the README and of docs/ runs, every link leads somewhere, every
example in a docstring comes out as it says, and every public name is in the reference."""

from __future__ import annotations

import doctest
import gzip
import importlib
import inspect
import os
import re
import shlex
from pathlib import Path

import pytest

import jaxsched as js
from jaxsched import cli

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]
EXAMPLES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in sorted((ROOT / "jaxsched").rglob("*.py"))
    if ">>>" in path.read_text()
]
"""Modules whose docstrings have examples."""

TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(
    f"{0.25 * i},{10 + 7 * i % 50},{1 + 13 * i % 90}\n" for i in range(60)
)

FEW = {
    "run": ["--lanes", "2"],
    "tune": ["--steps", "1"],
    "worst-case": ["--generations", "1", "--lanes", "32", "--requests", "64"],
}
"""Command -> options that make it short."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    lines = (line for block in blocks(page, "sh") for line in block.splitlines())
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages name, configs/ and examples/."""
    (tmp_path / "trace.csv").write_text(TRACE)
    with gzip.open(tmp_path / "requests.csv.gz", "wt") as file:
        file.write(TRACE)
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_run(page: Path, folder: Path) -> None:
    names: dict[str, object] = {"__name__": "snippet"}
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, snippet {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_run(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page):
        if words[0] == "jaxsched":
            few = FEW.get(words[1], [])
            try:
                assert cli.main([*words[1:], *few]) == 0, words
            except SystemExit as leave:  # argparse leaves after --help
                assert leave.code == 0, words
        elif words[0].startswith("./"):
            assert os.access(ROOT / words[0], os.X_OK), words
        elif words[:2] == ["python", "-m"]:
            assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").exists() or (
                ROOT / words[2] / "__main__.py"
            ).exists(), words
        else:
            assert words[:2] == ["pip", "install"] or words[0] in ("git", "cd"), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def documented() -> list[object]:
    """What the pages of docs/reference document, in the words of Sphinx's autodoc."""
    found: list[object] = []
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        module = js
        for kind, name in re.findall(r"^\.\. (\w+):: (\S+)", page.read_text(), re.MULTILINE):
            if kind == "currentmodule":
                module = importlib.import_module(name)
            elif kind == "automodule":
                room = importlib.import_module(name)
                names = getattr(room, "__all__", [x for x in vars(room) if not x.startswith("_")])
                found += [room, *(getattr(room, name) for name in names)]
            else:
                found.append(getattr(module, name))
    return found


def test_the_reference_has_every_public_name() -> None:
    found = documented()
    missing = [
        name
        for name in js.__all__
        if name != "__version__" and not any(getattr(js, name) is each for each in found)
    ]
    assert not missing, "name them on a page of docs/reference"
    rooms = [room for name in js.__all__ if inspect.ismodule(room := getattr(js, name))]
    assert all(getattr(room, "__all__", None) for room in rooms), "they say what is public"


def test_the_reference_has_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    commands = re.findall(r"^    ([\w-]+)(?: {2,}\w|$)", capsys.readouterr().out, re.MULTILINE)
    assert commands == re.findall(r"^```{program-help} ([\w-]+)$", page, re.MULTILINE)
