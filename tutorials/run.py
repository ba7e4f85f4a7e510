"""List the tutorials, run them, or make web pages of them.

    python tutorials/run.py                  list the tutorials
    python tutorials/run.py 4 5              run tutorials 4 and 5; `all` runs all
    python tutorials/run.py all --fast       run each as briefly as possible, for tests
    python tutorials/run.py all --images     run all, and renew the committed pictures in images/
    python tutorials/run.py all --gallery    run all as notebooks; pages in tutorials/build/gallery/

Without --images, nothing is written outside tutorials/build/, which git ignores. The gallery needs
`pip install '.[tutorials]'`. To run one tutorial: `python tutorials/04_unrolling.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from minilstm.command import Parser, run_command
from minilstm.errors import ConfigError
from minilstm.files import write_file

FOLDER = Path(__file__).parent
GALLERY = FOLDER / "build" / "gallery"
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
SCRIPT = re.compile(r'<script[^>]* src="https?://[^>]*>\s*</script>')


def tutorials() -> list[Path]:
    """Return the paths of all tutorials, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def title(path: Path) -> str:
    """Return the heading of a tutorial: "04 · Unroll a network through time"."""
    return path.read_text("utf-8").splitlines()[1].removeprefix("# # ")


def chosen(names: list[str]) -> list[Path]:
    """Return the tutorials with these numbers, or all for "all". Raise ConfigError otherwise."""
    found = tutorials()
    if names == ["all"]:
        return found
    by_number = {int(path.name[:2]): path for path in found}
    for name in names:
        if not name.isdecimal() or int(name) not in by_number:
            known = ", ".join(map(str, by_number))
            raise ConfigError(
                f"expected all, or numbers of {known}, got {name!r}: choose from them"
            )
    return [by_number[int(name)] for name in names]


def run(path: Path) -> bool:
    """Run one tutorial as a script. Return True if no error occurred."""
    print(f"\n=== {title(path)}", flush=True)
    start = time.perf_counter()
    status = subprocess.run([sys.executable, str(path)], cwd=FOLDER).returncode
    print(f"=== {'done' if status == 0 else 'FAILED'} in {time.perf_counter() - start:.0f} s")
    return status == 0


def page(path: Path) -> bool:
    """Run one tutorial as a notebook, write its page, and return True if no error occurred."""
    try:
        import jupytext
        from latex2mathml.converter import convert
        from nbconvert import HTMLExporter
        from nbconvert.preprocessors import CellExecutionError, ExecutePreprocessor
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"expected {error.name} for the gallery, got none: pip install '.[tutorials]'"
        ) from error
    print(title(path), flush=True)
    formulas = []  # in MathML, which a browser shows without a script from the network

    def placeholder(tex):
        display = "block" if tex[1] else "inline"
        formulas.append(convert(tex[1] or tex[2], display=display))
        return f"formula{len(formulas) - 1}x"

    notebook = jupytext.read(path)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":  # links are relative to the gallery's folder now
            cell.source = FORMULA.sub(placeholder, cell.source.replace("](../", "](../../../"))
    resources = {"metadata": {"path": str(FOLDER), "name": title(path)}}
    try:
        ExecutePreprocessor(timeout=600, kernel_name="python3").preprocess(notebook, resources)
    except CellExecutionError as error:
        print(error)
        return False
    html, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook, resources)
    html = re.sub(r"formula(\d+)x", lambda k: formulas[int(k[1])], SCRIPT.sub("", html))
    GALLERY.mkdir(parents=True, exist_ok=True)
    write_file(GALLERY / f"{path.stem}.html", html.encode())
    return True


def index() -> Path:
    """Write the gallery's first page, with a link to every page that exists. Return its path."""
    rows = []
    for path in tutorials():
        picture = re.search(r"\(images/(.+)\)", path.read_text("utf-8"))[1]  # the first picture
        picture = f'<img src="../../images/{picture}" alt="">'
        if (GALLERY / f"{path.stem}.html").exists():
            rows.append(f'<li><a href="{path.stem}.html">{picture}<b>{title(path)}</b></a></li>')
    write_file(GALLERY / "index.html", (INDEX % "\n".join(rows)).encode())
    return GALLERY / "index.html"


INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>minilstm tutorials</title>
<meta name="viewport" content="width=device-width">
<style>
body { font: 17px/1.4 sans-serif; color: #222; max-width: 1100px; margin: 2em auto; padding: 0 1em }
ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1.5em;
     list-style: none; padding: 0 }
a { color: #0072B2; text-decoration: none }
img { display: block; width: 100%%; height: 160px; object-fit: contain; margin-bottom: .5em }
</style>
<h1>minilstm tutorials</h1>
<p>From one neuron to predicting the future of a film, in the order of the slides.</p>
<ul>
%s
</ul></html>
"""


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python tutorials/run.py",
        description="List the tutorials, run them, or make web pages of them.",
    )
    parser.add_argument(
        "tutorials", nargs="*", metavar="NUMBER",
        help="numbers of the tutorials to run, or `all`; without one, list them",
    )  # fmt: skip
    parser.add_argument("--fast", action="store_true", help="run each as briefly as possible")
    parser.add_argument(
        "--images", action="store_true", help="renew the committed pictures in tutorials/images/"
    )
    parser.add_argument(
        "--gallery", action="store_true", help="write web pages to tutorials/build/gallery/"
    )
    options = parser.parse_args(arguments)
    if options.fast and options.images:
        raise ConfigError(
            "expected --fast or --images, got both: the committed pictures are of a full run"
        )
    if options.fast:
        os.environ["MINILSTM_FAST"] = "1"
    if options.images:
        os.environ["MINILSTM_RENEW_IMAGES"] = "1"
    if not options.tutorials:
        print(*map(title, tutorials()), sep="\n")
        return 0
    work = page if options.gallery else run
    failed = [path.name for path in chosen(options.tutorials) if not work(path)]
    if options.gallery:
        print(index())
    if failed:
        print("failed:", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
