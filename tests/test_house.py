"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "jaxsched"

SAME = {
    "the choices of a policy, or what is done with its numbers, for the family and the network": {
        "admission_key", "estimate", "eviction_key", "quantize", "refine", "reserve", "unrounded",
        "UNIT",
    },
    "one function, that each engine or loop has its own of": {"compute", "simulate_lanes", "step"},
    "one number, in the types of each engine": {"LAST_TICK", "NEVER"},
    "of configurations, and `jaxsched.predict.load`": {"load"},
    "one type of arrays": {"Array", "Floats"},
    "the command, and its options": {"clock", "predict", "run", "simulate"},
    "of `jaxsched`, and the reference's own, which takes nothing from it": {"Clock"},
    "public in both places: of `jaxsched.metrics` and of `jaxsched.relaxation`": {"Timeline"},
}  # fmt: skip
"""Why -> names that several modules define on purpose."""


def names(path: Path) -> Iterator[str]:
    """What the module defines at its top, but for names with an underscore."""
    for node in ast.parse(path.read_text()).body:
        found: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from (name for name in dict.fromkeys(found) if not name.startswith("_"))


def test_no_two_things_have_one_name() -> None:
    count = Counter(name for path in PACKAGE.rglob("*.py") for name in set(names(path)))
    several = {name for name, modules in count.items() if modules > 1}
    assert several == set().union(*SAME.values())


def test_functions_that_borrow_call_others_that_do_and_numpy_for_numbers_alone() -> None:
    """Another would be compiled without references, too, which may fail."""
    room = [ast.parse(path.read_text()).body for path in sorted(PACKAGE.glob("optimum/*.py"))]
    functions = [node for body in room for node in body if isinstance(node, ast.FunctionDef)]
    borrow = [f for f in functions if "borrowing()" in map(ast.unparse, f.decorator_list)]
    known = {f.name for f in borrow} | {"len", "max", "min", "range", "np.int64", "np.uint64"}
    for function in borrow:
        inside = [node for part in function.body for node in ast.walk(part)]
        calls = {ast.unparse(node.func) for node in inside if isinstance(node, ast.Call)}
        assert calls <= known, function.name
    assert len(borrow) > 20
