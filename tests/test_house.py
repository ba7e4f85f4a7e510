"""The house: which file may import which, what no file may do, and what lies where."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sources import nodes_of, tree_of

import minilstm
from minilstm.data.rng import Purpose

PACKAGE = Path(minilstm.__file__).parent
ROOT = PACKAGE.parent
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TEXTS = sorted(
    path for folder in ("minilstm", "tutorials", "tests", "data_tools", ".ci")
    for path in (ROOT / folder).rglob("*.py")
)  # fmt: skip

# The storeys of the house. A module belongs to the folder that it lies in; a file at the top of the
# package is BASE, `optim`, `checker`, or a command.
BASE = {"errors", "files", "backend", "command", "streams", "threads"}
BELOW = {  # storey: the storeys whose modules it may import, besides its own
    "base": set(),
    "gpu": {"base"},
    "layers": {"base", "gpu"},
    "models": {"base", "gpu", "layers"},
    "optim": {"base", "gpu", "layers"},
    "data": {"base"},
    "config": {"base"},
    "figures": {"base"},
}
BELOW["runs"] = set(BELOW)
BELOW["checker"] = {"base", "gpu", "layers"}
BELOW["promises"] = BELOW["checker"] | {"checker"}
BELOW["evaluation"] = BELOW["runs"] - {"figures"} | {"runs"}
BELOW["training"] = BELOW["evaluation"] | {"figures", "evaluation", "checker", "promises"}
BELOW["experiments"] = BELOW["benchmark"] = BELOW["training"] | {"training"}
BELOW["commands"] = BELOW["experiments"] | {"experiments", "benchmark"}
# backend.py asks a GPU what it lacks only when CuPy is chosen: inside a function, so that NumPy
# alone never loads it. It imports only errors.py.
EXCEPTIONS = {("backend", "gpu.diagnosis")}
AUTOGRAD = {"torch", "jax", "tensorflow", "autograd", "chainer"}


def storey(module):
    top = module.split(".")[0]
    if top in BASE:
        return "base"
    return top if top in BELOW else "commands"


def imports(tree, module=""):
    """Every imported name, absolute: `from .errors import X` in data.digits -> minilstm.errors."""
    package = ("minilstm." + module).split(".")[:-1]
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            if node.module and ".".join(base) != "minilstm":
                yield ".".join(base)
            else:  # from . import cells
                yield from (".".join([*base, alias.name]) for alias in node.names)


def imports_within(module):
    found = set()
    for name in imports(tree_of(MODULES[module]), module):
        if name.split(".")[0] == "minilstm" and name != "minilstm":
            found.add(name.removeprefix("minilstm."))
    return found


def test_imports_point_in_one_direction():
    for module in MODULES:
        own = storey(module)
        wrong = {
            name
            for name in imports_within(module)
            if storey(name) not in BELOW[own] | ({own} if own != "commands" else set())
        } - {name for importer, name in EXCEPTIONS if importer == module}
        assert not wrong, f"{module} is in storey {own} and imports {sorted(wrong)}"


def test_no_module_imports_itself_on_a_way_round():
    edges = {
        module: {name if name in MODULES else f"{name}.__init__" for name in imports_within(module)}
        for module in MODULES
    }
    finished = set()

    def visit(module, way):
        assert module not in way, f"import cycle: {' -> '.join([*way, module])}"
        if module not in finished:
            for name in sorted(edges.get(module, ())):
                visit(name, [*way, module])
            finished.add(module)

    for module in edges:
        visit(module, [])
    assert len(finished) >= len(MODULES)


def underscore_names_of_others(tree):
    """Yield every underscore name that a module takes from another module of the package."""
    modules = set()
    for node in nodes_of(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("minilstm")):
            for alias in node.names:
                modules.add(alias.asname or alias.name)
                if alias.name.startswith("_"):
                    yield alias.name
    for node in nodes_of(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in modules and node.attr.startswith("_") and node.attr[:2] != "__":
                yield f"{node.value.id}.{node.attr}"


def test_no_module_uses_an_underscore_name_of_another():
    for module, path in MODULES.items():
        found = sorted(set(underscore_names_of_others(tree_of(path))))
        assert not found, f"{module}.py uses {', '.join(found)}"


def test_an_underscore_name_of_another_module_is_found():
    tree = ast.parse("from .figures import strips\nfrom .files import _x\nstrips._axes(strips.y)\n")
    assert set(underscore_names_of_others(tree)) == {"_x", "strips._axes"}


def test_code_for_verdicts_draws_nothing():
    drawing = {"charts", "run_figures", "report_page", "demo_page", "film_page", "live_page"}
    judging = [name for name in MODULES if name.startswith("experiments.")]
    judging = [name for name in judging if name.split(".")[1] not in drawing | {"targets"}]
    assert len(judging) > 8
    for module in judging:
        found = {name for name in imports_within(module) if name.split(".")[0] == "figures"}
        assert not found, f"{module} imports {found}"


def test_the_import_reader_sees_every_form_of_import():
    tree = ast.parse(
        "import a.b\nfrom c import d\nfrom . import e\nfrom .f import g\nfrom ..h import i\n"
        "def local():\n    import minilstm.j\n    from minilstm import k\n"
        "    from minilstm.l import m\n"
    )
    assert set(imports(tree, "data.x")) == {
        "a.b", "c", "minilstm.data.e", "minilstm.data.f", "minilstm.h",
        "minilstm.j", "minilstm.k", "minilstm.l",
    }  # fmt: skip


@pytest.mark.parametrize("importer, imported", sorted(EXCEPTIONS))
def test_an_exception_is_imported_inside_a_function_and_imports_only_errors(importer, imported):
    assert imported in imports_within(importer)
    at_the_top = [
        node for node in tree_of(MODULES[importer]).body if isinstance(node, ast.ImportFrom)
    ]
    assert not any(imported.endswith(node.module or "") for node in at_the_top)
    assert imports_within(imported) == {"errors"}


def test_only_the_backend_and_gpu_import_cupy_and_only_the_benchmark_an_autograd_library():
    for module, path in MODULES.items():
        libraries = {name.split(".")[0] for name in imports(tree_of(path), module)}
        allowed = {"cupy", "cupyx"} if module == "backend" or storey(module) == "gpu" else set()
        if module in ("benchmark.contenders", "benchmark.gpu"):  # which time them
            allowed |= {"torch", "jax"}
        found = libraries & (AUTOGRAD | {"cupy", "cupyx", "numba"}) - allowed
        assert not found, f"{module} imports {found}"


def test_arrays_cross_between_host_and_device_only_in_the_backend_and_gpu():
    calls = [
        (module, node)
        for module, path in MODULES.items()
        if module != "backend" and storey(module) != "gpu"
        for node in nodes_of(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    for module, node in calls:
        name, line = node.func.attr, node.lineno
        of = ast.unparse(node.func.value)
        a_transfer = name == "get" and not (
            node.args or node.keywords or of.endswith(("queue", "_of_context"))
        )
        assert not a_transfer, f"{module}.py:{line}: {of}.get()"
        assert name != "asnumpy", f"{module}.py:{line}: asnumpy()"
        assert (of, name) not in {("xp", "asarray"), ("xp", "array")}, f"{module}.py:{line}: {name}"


PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "joblib", "shelve", "marshal"}
MAKE_HARMFUL_FILES = {  # these tests write pickles, to see that no reader loads them
    "tests/harness/fuzz.py", "tests/test_commands.py", "tests/test_convert_pth.py",
    "tests/test_data.py", "tests/test_fuzz.py", "tests/test_patches.py",
}  # fmt: skip


def test_nothing_is_ever_unpickled():
    assert {path.name for path in TEXTS} >= {"train.py", "options.py", "kit.py", "test_house.py"}
    for path in TEXTS:
        if path.relative_to(ROOT).as_posix() in MAKE_HARMFUL_FILES:
            continue
        tree = tree_of(path)
        found = {name.split(".")[0] for name in imports(tree)} & PICKLERS
        assert not found, f"{path.name} imports {found}"
        for node in nodes_of(tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, (
                    f"{path.name}:{node.value.lineno}: expected allow_pickle=False"
                )


def test_importing_minilstm_is_light():
    heavy = {"matplotlib", "scipy", "tqdm", "safetensors", "PIL", "torch", "cupy", "tomli_w"}
    code = "import sys, minilstm; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_every_module_and_every_public_function_class_and_method_has_a_docstring():
    for module, path in MODULES.items():
        tree = tree_of(path)
        silent = [] if ast.get_docstring(tree) or not tree.body else ["the module itself"]
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if node.name != "main" and not ast.get_docstring(node):  # of main the module speaks
                silent.append(f"{node.name} (line {node.lineno})")
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if not isinstance(method, ast.FunctionDef) or method.name.startswith("_"):
                    continue
                is_setter = any(
                    ast.unparse(one).endswith(".setter") for one in method.decorator_list
                )
                if not is_setter and not ast.get_docstring(method):
                    silent.append(f"{node.name}.{method.name} (line {method.lineno})")
        assert not silent, f"{module}.py: no docstring: {', '.join(silent)}"


def test_no_name_is_defined_twice_in_one_file():
    """The second of two tests of one name silently replaces the first."""
    for path in TEXTS:
        bodies = [tree_of(path)]
        bodies += [node for node in bodies[0].body if isinstance(node, ast.ClassDef)]
        for body in bodies:
            plain = [
                node.name for node in body.body
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.decorator_list
            ]  # fmt: skip
            twice = sorted({name for name in plain if plain.count(name) > 1})
            assert not twice, f"{path.name}: defined twice: {', '.join(twice)}"


def test_the_top_of_the_repository_holds_only_the_agreed_names():
    agreed = {"pyproject.toml", "README.md", "LICENSE", "minilstm", "tutorials", "tests"}
    agreed |= {"data_tools", ".ci"}
    top = {
        line.split("/")[0] for line in git("ls-files", "--cached", "--others", "--exclude-standard")
    }
    extra = {name for name in top - agreed if not name.startswith(".")}
    assert not extra, f"not agreed: {sorted(extra)}"


def git(*words):
    """Run git in the repository; its lines. Skip the test where there is none."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if done.returncode:
        pytest.skip("not a git repository")
    return done.stdout.splitlines()


def test_no_file_of_the_package_is_left_out_of_a_commit():
    """A pattern in .gitignore such as `runs/` would ignore minilstm/runs/ without a word."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    listed = set(git("ls-files", "--cached", "--others", "--exclude-standard", "minilstm"))
    assert found == listed


def test_every_key_of_random_numbers_begins_with_a_purpose_and_every_purpose_is_used():
    used = set()
    for folder in (PACKAGE, ROOT / "data_tools"):
        for path in folder.rglob("*.py"):
            for first in re.findall(r"(?<!def )keyed_rng\(([^,)]*)", path.read_text("utf-8")):
                assert first.startswith("Purpose."), f"{path.name}: keyed_rng({first}"
                used.add(first.removeprefix("Purpose."))
    assert used == set(Purpose.__members__)


def test_every_dependency_has_a_lower_bound_and_the_lowest_versions_are_those_that_are_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    bounds = {}
    for line in project["dependencies"] + sum(extras.values(), []):
        name, _, least = line.partition(">=")
        bounds[name.partition("[")[0]] = least
    chosen_by_torch = {"torch==2.13.0", "torchvision"}
    assert {name for name, least in bounds.items() if not least} == {"minilstm"} | chosen_by_torch
    pins = (ROOT / ".ci" / "lowest.txt").read_text("utf-8")
    pins = dict(line.split("==") for line in pins.splitlines() if "==" in line)
    # on a GPU alone, to read notebooks, or to change the code: tried at today's version
    untried = {"cupy-cuda12x", "cupy-cuda13x", "jupyterlab", "ruff", "mypy", "selenium"}
    assert {name: least for name, least in bounds.items() if least and name not in untried} == {
        name: pin for name, pin in pins.items() if name != "pyparsing"
    }


def test_the_tests_of_the_lowest_versions_exist():
    for line in (ROOT / ".ci" / "lowest_tests.txt").read_text("utf-8").splitlines():
        path, _, name = line.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), line
