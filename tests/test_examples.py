"""Every program of examples/ runs, is short, and says what it promises."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
PROGRAMS = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_runs(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(program)])
    runpy.run_path(str(program), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 3


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_fits_on_a_screen(program: Path) -> None:
    text = program.read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()) < 40
    assert f"python examples/{program.name}" in text.split('"""')[1]


def test_the_readme_of_the_folder_names_them_all() -> None:
    page = (FOLDER / "README.md").read_text()
    assert all(f"[{program.name}]({program.name})" in page for program in PROGRAMS)
