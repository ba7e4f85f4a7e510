"""Syntax trees of the Python files of this repository, each parsed once."""

import ast
from functools import cache
from pathlib import Path


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file. Nobody may change it: the next test gets the same."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))
