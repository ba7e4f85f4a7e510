"""Syntax trees of the Python files of this repository, each parsed and walked once."""

import ast
from functools import cache
from pathlib import Path


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file. Nobody may change it: the next test gets the same."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes_of(tree: ast.Module) -> list[ast.AST]:
    """Return all nodes of a file's tree, as ast.walk finds them."""
    return list(ast.walk(tree))
