"""Imports only go downward, including those under TYPE_CHECKING and inside functions."""

import ast
from functools import cache
from graphlib import TopologicalSorter

import pytest

from src.config.paths import PROJECT

CHAINS = (
    ["utils config specs", "ops", "tensors", "models", "tasks", "training", "running"],
    ["utils config specs", "data", "tasks"],
    ["utils config specs", "results data", "reports", "running"],
    ["running", "sweeping reproduction", "papers theory benchmarks", "train evaluate"],
)
"""A package may import those to its left in a chain, but not those to its right."""


def files(folder="src"):
    return sorted((PROJECT / folder).rglob("*.py"))


def module_of(path):
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, modules):
    """The modules of the project that a file imports, anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in modules or node.module in modules:
                    yield name if name in modules else str(node.module)


@cache
def graph():
    modules = {module_of(path) for path in files()}
    return {module_of(path): set(imports(path, modules)) - {module_of(path)} for path in files()}


def package_of(module):
    """The package or command of a module."""
    return module.split(".")[1] if "." in module else ""


@cache
def below():
    """For each package, the packages that it may import."""
    found = {}
    for chain in CHAINS:
        lower = set()
        for level in chain:
            for name in level.split():
                found.setdefault(name, set()).update(lower)
            lower |= set(level.split())
    bottom = set(CHAINS[0][0].split())
    for name in bottom:
        found[name] |= bottom - {name}
    for name in TopologicalSorter({name: found[name] - bottom for name in found if name not in bottom}).static_order():
        found[name] = found[name].union(*(found[lower] for lower in found[name]))
    return found


def test_every_package_is_in_a_chain():
    folders = {path.name for path in (PROJECT / "src").iterdir() if path.is_dir() and list(path.glob("*.py"))}
    commands = {path.stem for path in (PROJECT / "src").glob("*.py")} - {"__init__"}
    assert folders | commands == set(below())


@pytest.mark.parametrize("module", sorted(map(module_of, files())))
def test_a_module_imports_only_from_below(module):
    own = package_of(module)
    for imported in graph()[module] - {"src"}:
        assert package_of(imported) in {own, *below()[own]}, imported


def test_there_is_no_import_cycle():
    """Not even between single files, where the `__init__` of a package counts as a file of its own."""
    list(TopologicalSorter(graph()).static_order())


def test_scripts_import_existing_modules_and_nothing_imports_a_script():
    modules = {module_of(path) for path in files()}
    for path in files("scripts"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("src"):
                assert node.module in modules, f"{path}: {node.module}"
    for path in files():
        assert "from scripts" not in path.read_text()


def test_upward_imports_are_detected(tmp_path):
    path = tmp_path / "upward.py"
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from src.running.build import check\n")
    assert set(imports(path, {"src.running.build"})) == {"src.running.build"}
    path.write_text("def f():\n    from src.running import build\n")
    assert set(imports(path, {"src.running.build", "src.running"})) == {"src.running.build"}
    assert "running" not in below()["models"]
    assert below()["papers"] >= {"tasks", "results", "running", "reproduction"}
