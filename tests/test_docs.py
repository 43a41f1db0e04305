"""Every snippet and command of the README and of docs/ runs, and every link leads somewhere."""

from __future__ import annotations

import gzip
import os
import re
import shlex
from pathlib import Path

import pytest

from jaxsched import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(
    f"{0.25 * i},{10 + 7 * i % 50},{1 + 13 * i % 90}\n" for i in range(60)
)

FEW = {"run": ["--lanes", "2"], "tune": ["--steps", "1"]}
"""Command -> options that make it short."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    lines = (line for block in blocks(page, "sh") for line in block.splitlines())
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages name, and configs/ as in the repository."""
    (tmp_path / "trace.csv").write_text(TRACE)
    with gzip.open(tmp_path / "requests.csv.gz", "wt") as file:
        file.write(TRACE)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page: Path, folder: Path) -> None:
    names: dict[str, object] = {"__name__": "snippet"}
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, snippet {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
