"""Docstrings: their first words, and examples, whose calls fit the signatures."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest
from sources import nodes_of, tree_of

import minilstm
from minilstm.runs import build

ROOT = Path(minilstm.__file__).parents[1]
TEXTS = sorted(
    path
    for folder in ("minilstm", "data_tools", "tutorials", "tests")
    for path in (ROOT / folder).rglob("*.py")
)


def test_a_docstring_opens_with_a_verb_or_a_name():
    """A relative clause such as "What the trainer keeps" makes the reader wait for its subject."""
    assert {path.name for path in TEXTS} >= {"train.py", "options.py", "kit.py", "test_house.py"}
    found = []
    for path in TEXTS:
        for node in nodes_of(tree_of(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if re.match(r"(What|Where|Whether|How|As|Of|Who|Those|The same)\b", text):
                    found.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert not found, "\n".join(found)


def blocks(text):
    """The indented parts of a docstring that are Python, as syntax trees."""
    lines = [*inspect.cleandoc(text).splitlines(), "end"]
    block = []
    for line in lines:
        if line.startswith("    ") or not line:
            block.append(line)
            continue
        try:
            tree = ast.parse(textwrap.dedent("\n".join(block)))
        except SyntaxError:  # an equation, a table or a command
            tree = ast.parse("")
        if tree.body:
            yield tree
        block = []


def called(node, names):
    """The object that a call in an example names, or None for one that the example itself made."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = called(node.value, names)
        return None if owner is None else getattr(owner, node.attr, None)
    return None


def made_in(block):
    """The names that an example gives to values, classes and functions of its own."""
    for node in ast.walk(block):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name


def imported_in(block):
    """The objects that an example imports from the package, by name."""
    return {
        alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("minilstm")
        for alias in node.names
    }


def calls():
    """Each call in an example that names something of the package: where, the call, the object."""
    modules = (found.name for found in pkgutil.walk_packages(minilstm.__path__, "minilstm."))
    for name in ("minilstm", *modules):
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        tree = tree_of(Path(module.__file__))
        names = {"minilstm": minilstm} | vars(minilstm) | vars(module)
        for node in nodes_of(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            for block in blocks(ast.get_docstring(node) or ""):
                known = {key: value for key, value in names.items() if key not in made_in(block)}
                known |= imported_in(block)
                for call in (one for one in ast.walk(block) if isinstance(one, ast.Call)):
                    function = called(call.func, known)
                    if callable(function) and function.__module__.startswith("minilstm"):
                        yield f"{name}: {ast.unparse(call)}", call, function


def test_every_call_in_a_docstring_fits_the_signature():
    found = list(calls())
    assert len(found) > 20 and any("build_model(" in where for where, *_ in found)
    for where, call, function in found:
        if any(isinstance(one, ast.Starred) for one in call.args):
            continue  # its number of arguments is unknown
        keywords = {one.arg: None for one in call.keywords}
        try:
            inspect.signature(function).bind(*[None] * len(call.args), **keywords)
        except TypeError as problem:
            pytest.fail(f"{where}: {problem}")


def test_the_example_of_the_builder_runs():
    block = next(blocks(build.__doc__))
    names = dict(vars(build))
    exec(compile(block, "the docstring of build.py", "exec"), names)
    assert names["model"].flat() is names["optimizer"].flat
