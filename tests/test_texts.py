"""Every command that a README, a tutorial or a docstring shows is understood by its own parser."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from sources import nodes_of, tree_of

import minilstm
from minilstm.command import Parser

ROOT = Path(minilstm.__file__).parent.parent
# python -m minilstm.train ..., python -m minilstm train ..., minilstm train ...
SPELLINGS = r"(?:python -m minilstm[. ]|python -m data_tools\.|minilstm )[a-z_0-9]+(?:\.[a-z_]+)?"
IN_BACKTICKS = re.compile(rf"`({SPELLINGS}\b[^`]*)`")
ON_A_LINE = re.compile(
    rf"^[ \t#]*(?:mpiexec -n \d+ |.*&& )?({SPELLINGS}(?:[ \t].*)?)$", re.MULTILINE
)
# The package itself among the words after `pip install`: . or .[EXTRA] or minilstm[EXTRA]
OF_CLONE = r"""(?:^|[\s"'])(?:\.(?:\s|$|\\?\[)|minilstm\\?\[)"""


def files():
    """Return every text that readers see: READMEs, tutorials, modules with docstrings."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md"), *ROOT.glob("tutorials/*.py")]
    found += [*ROOT.glob("minilstm/**/*.py"), *ROOT.glob("data_tools/*.py")]
    return sorted(path for path in found if not {"build", "runs", "dist"} & set(path.parts))


def text_of(path):
    """Return the prose of a file: all of Markdown, the text cells of a tutorial, docstrings."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return text
    if path.parent.name == "tutorials":
        return "\n".join(re.findall(r"^# (.*)$", text, re.MULTILINE))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    if not re.search(SPELLINGS, text):
        return ""
    nodes = (node for node in nodes_of(tree_of(path)) if isinstance(node, documented))
    return "\n".join(filter(None, map(ast.get_docstring, nodes)))


def commands_of(path):
    """Return the commands that a file shows, each as one line without its explanation."""
    text = text_of(path)
    found = [" ".join(line.split()) for line in IN_BACKTICKS.findall(text)]
    for line in ON_A_LINE.findall(text):
        if "`" not in line:
            found.append(re.split(r"\s{2,}|\s#", line.strip())[0])
    return [line for line in dict.fromkeys(found) if not re.search(r"\[|\.\.\.| NAME\b", line)]


SHOWN = {path.relative_to(ROOT).as_posix(): commands_of(path) for path in files()}


# How many commands each file shows. A pattern that stops matching would test nothing silently.
COUNTS = {
    "README.md": 16,
    "data_tools/README.md": 21,
    "data_tools/convert_pth.py": 1,
    "data_tools/extract_flow.py": 2,
    "data_tools/extract_patches.py": 2,
    "data_tools/extract_percepts.py": 1,
    "data_tools/fetch_mnist.py": 3,
    "data_tools/inspect_file.py": 2,
    "data_tools/learn_video.py": 1,
    "data_tools/make_actions.py": 2,
    "data_tools/make_digits.py": 1,
    "data_tools/make_moving_mnist.py": 3,
    "data_tools/pack_model.py": 1,
    "minilstm/__init__.py": 1,
    "minilstm/__main__.py": 2,
    "minilstm/bench.py": 6,
    "minilstm/benchmark/README.md": 7,
    "minilstm/benchmark/device.py": 1,
    "minilstm/benchmark/host.py": 1,
    "minilstm/classify.py": 4,
    "minilstm/demo.py": 3,
    "minilstm/doctor.py": 2,
    "minilstm/evaluate.py": 1,
    "minilstm/evaluation/kept_predictions.py": 2,
    "minilstm/experiments/README.md": 15,
    "minilstm/experiments/action_fit.py": 1,
    "minilstm/experiments/many_runs.py": 2,
    "minilstm/experiments/targets.py": 1,
    "minilstm/gpu/README.md": 4,
    "minilstm/gpu/diagnosis.py": 1,
    "minilstm/gradcheck.py": 3,
    "minilstm/interop.py": 2,
    "minilstm/report.py": 3,
    "minilstm/reproduce.py": 6,
    "minilstm/train.py": 6,
    "minilstm/training/README.md": 7,
    "minilstm/training/distributed.py": 1,
    "tests/README.md": 4,
    "tutorials/01_motivation.py": 2,
    "tutorials/02_neural_networks.py": 1,
    "tutorials/06_recurrent_autoencoders.py": 1,
    "tutorials/09_evaluation.py": 1,
    "tutorials/11_visualisation.py": 1,
    "tutorials/12_transfer_learning.py": 3,
    "tutorials/13_benchmarking.py": 1,
    "tutorials/15_gpu.py": 3,
    "tutorials/16_your_own_cell.py": 4,
    "tutorials/17_percepts.py": 4,
    "tutorials/18_what_came_after.py": 1,
    "tutorials/README.md": 1,
}


def test_every_file_shows_as_many_commands_as_it_did():
    assert {name: len(lines) for name, lines in SHOWN.items() if lines} == COUNTS


class Understood(Exception):  # noqa: N818
    """The command would start now."""


@pytest.mark.parametrize(
    "line", sorted({line for lines in SHOWN.values() for line in lines}), ids=lambda line: line
)
def test_a_command_that_is_shown_is_understood(monkeypatch, line):
    def then_stop(method):
        def parsed(*arguments):
            method(*arguments)
            raise Understood

        return parsed

    for name in ("parse_args", "parse_intermixed_args", "print_help"):
        monkeypatch.setattr(Parser, name, then_stop(getattr(Parser, name)))
    words = shlex.split(line.removeprefix("python -m "))
    if words[0] == "minilstm":
        words = [f"minilstm.{words[1]}", *words[2:]]
    command = importlib.import_module(words[0]).main
    if not words[1:]:  # only named, in a sentence
        return
    with pytest.raises(Understood):
        command(words[1:])


def test_an_install_from_the_clone_is_always_editable():
    """Without -e pip replaces the README's install by a copy, and changes to the code do nothing.

    The name minilstm[EXTRA] is not used either: there is one form, and pip would look for the name
    on the web if nothing is installed yet.
    """
    shown = []
    for path in [*files(), *ROOT.glob("tests/*.py"), *ROOT.glob(".ci/*")]:
        text = re.sub(r'"\n\s*f?"', "", path.read_text("utf-8"))  # a message of several lines
        shown += [(path.name, words) for words in re.findall(r"pip install ([^`\n|&:;]*)", text)]
    of_clone = [(name, words) for name, words in shown if re.search(OF_CLONE, words)]
    assert len(of_clone) >= 15
    assert [found for found in of_clone if "-e " not in found[1]] == []


@pytest.mark.parametrize(
    "path", [path for path in files() if path.suffix == ".md"], ids=lambda path: path.parent.name
)
def test_every_link_of_a_readme_leads_to_a_file(path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target
