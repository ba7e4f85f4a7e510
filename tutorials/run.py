"""List the tutorials, run them, or make web pages of them.

    python tutorials/run.py                  list the tutorials
    python tutorials/run.py 4 5              run tutorials 4 and 5; `all` runs all
    python tutorials/run.py all --fast       run each as briefly as possible, for tests
    python tutorials/run.py all --images     run all, and renew the committed pictures in images/
    python tutorials/run.py all --gallery    run all as notebooks; pages in tutorials/gallery/
    python tutorials/run.py all --threads 2  two threads in matrix products, not one
    python tutorials/run.py stale --gallery  renew the pages whose tutorial was changed since; with
                                             --keep-outputs only their text, in a moment

Without --images and --gallery, nothing is written outside tutorials/build/, which git ignores; nor
by `--fast --gallery`. The gallery needs `pip install -e '.[tutorials]'`. To run one tutorial:
`python tutorials/04_unrolling.py`.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import html
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from string import Template

from PIL import Image

from minilstm.command import Parser, run_command
from minilstm.errors import ConfigError
from minilstm.files import write_file
from minilstm.threads import VARIABLES

FOLDER = Path(__file__).parent
GALLERY = FOLDER / "gallery"  # committed; pages of fast runs go to build/gallery/
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
# the HTML between two pieces of one cell's printed text: the kernel may send it in pieces
BETWEEN = """</pre>
</div>
</div>
<div class="output_area">
<div class="prompt"></div>
<div class="output_subarea output_stream output_stdout output_text">
<pre>"""
# a table of Markdown, in printed text: head, line of dashes, rows
TABLE = re.compile(r"^\|.*\|\n\|[-:| ]+\|\n(?:\|.*\|\n)*", re.MULTILINE)
CELL = re.compile(r'(?=<div class="cell border-box-sizing (?:code|text)_cell )')
CELL_ID = re.compile(r'(?<=id="cell-id=)[^"]*')
SOURCE = re.compile(r'<div class="highlight hl-ipython3"><pre>(.*?)</pre></div>', re.DOTALL)
SCRIPT = re.compile(r'<script[^>]* src="https?://[^>]*>\s*</script>')
# the name of a function in a formula, what ends before it, and the bracket of its argument
FUNCTION = re.compile(
    r'(</mo>|<mrow>)?<m[io]>([A-Za-z]{2,})</m[io]>(<mo stretchy="false">&#x00028;)?'
)
# a formula in a line of text, with the brackets and points that touch it
INLINE = re.compile(r'(\(?)(<math [^>]*display="inline">.*?</math>)([.,;:?!)]*)', re.DOTALL)


def tutorials() -> list[Path]:
    """Return the paths of all tutorials, in order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def title(path: Path) -> str:
    """Return the heading of a tutorial: "04 · Unroll a network through time"."""
    return path.read_text("utf-8").splitlines()[1].removeprefix("# # ")


def chosen(names: list[str]) -> list[Path]:
    """Return the tutorials with these numbers, "all", or those whose page is "stale".

    Raises ConfigError for anything else.
    """
    found = tutorials()
    if names == ["all"]:
        return found
    if names == ["stale"]:
        return stale()
    by_number = {int(path.name[:2]): path for path in found}
    for name in names:
        if not name.isdecimal() or int(name) not in by_number:
            known = ", ".join(map(str, by_number))
            beside = " beside others" if name in ("all", "stale") else ""
            raise ConfigError(
                f"expected all, stale, or numbers of {known}, got {name!r}{beside}: choose from "
                "them"
            )
    return [by_number[int(name)] for name in names]


def run(path: Path) -> bool:
    """Run one tutorial as a script. Return True if no error occurred."""
    print(f"\n=== {title(path)}", flush=True)
    start = time.perf_counter()
    status = subprocess.run([sys.executable, str(path)], cwd=FOLDER).returncode
    print(f"=== {'done' if status == 0 else 'FAILED'} in {time.perf_counter() - start:.0f} s")
    return status == 0


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a tutorial's text, which its page records."""
    return hashlib.sha256(path.read_text("utf-8").encode()).hexdigest()


def stale() -> list[Path]:
    """Return the tutorials without a page in gallery/, or changed since their page was made."""
    found = []
    for path in tutorials():
        page = GALLERY / f"{path.stem}.html"
        if not page.exists() or hash_of(path) not in page.read_text("utf-8")[:2000]:
            found.append(path)
    return found


def page(path: Path, folder: Path, keep_outputs: bool = False) -> bool:
    """Run one tutorial as a notebook, write its page, and return True if no error occurred.

    Everything is in the page: pictures, and formulas in MathML. It needs no network, and nothing
    beside it but the pages that it links to. With `keep_outputs` nothing is run: the outputs are
    those of the present page. Raises ConfigError if that page is of another code.
    """
    try:
        import jupytext
        from latex2mathml.converter import convert
        from nbconvert import HTMLExporter
        from nbconvert.preprocessors import CellExecutionError, ExecutePreprocessor
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"expected {error.name} for the gallery, got none: pip install -e '.[tutorials]'"
        ) from error
    print(title(path), flush=True)
    formulas = []

    def placeholder(tex):
        display = "block" if tex[1] else "inline"
        formulas.append(spaced(convert(tex[1] or tex[2], display=display)))
        return f"formula{len(formulas) - 1}x"

    notebook = jupytext.read(path)
    for k, cell in enumerate(notebook.cells):
        cell.id = str(k)  # jupytext draws one by chance, and two pages would differ by it
        if cell.cell_type == "markdown":
            # a link to a source file breaks when the page is copied elsewhere: keep only its name
            text = re.sub(r"\[([^\]]+)\]\((?:\.\./[^)]*|[a-z]\w*\.py)\)", r"`\1`", cell.source)
            text = re.sub(r"\((\d\d_\w+)\.py\)", r"(\1.html)", text)
            cell.source = FORMULA.sub(placeholder, text)
    resources = {"metadata": {"path": str(FOLDER), "name": title(path)}}
    quiet = ["--log-level=40"]  # of the kernel: errors alone
    processor = ExecutePreprocessor(timeout=3600, kernel_name="python3", extra_arguments=quiet)
    try:
        if not keep_outputs:
            processor.preprocess(notebook, resources)
    except CellExecutionError as error:
        print(error)
        return False
    exporter = HTMLExporter(embed_images=True, template_name="basic")
    body, _ = exporter.from_notebook_node(notebook, resources)
    body = re.sub(r"formula(\d+)x", lambda k: formulas[int(k[1])], SCRIPT.sub("", body))
    body = INLINE.sub(together, body)
    folder.mkdir(parents=True, exist_ok=True)
    target, text = folder / f"{path.stem}.html", laid_out(path, body)
    if keep_outputs:
        if not target.exists():
            raise ConfigError(f"expected {target} for --keep-outputs, got none: leave the flag out")
        text = with_outputs(text, target.read_text("utf-8"), path.name)
    write_file(target, text.encode())
    return True


def with_outputs(new: str, old: str, name: str) -> str:
    """Return the page `new`, which has no outputs, with the outputs of the page `old`.

    Raises ConfigError unless their code is the same, except for comments.
    """
    (head, *cells), (_, *old_cells) = CELL.split(new), CELL.split(old)
    outputs = [cell for cell in old_cells if SOURCE.search(cell)]
    sources = [cell for cell in cells if SOURCE.search(cell)]
    if [_code(cell) for cell in sources] != [_code(cell) for cell in outputs]:
        raise ConfigError(
            f"expected {name} with the code that its page shows for --keep-outputs, got other "
            "code: leave the flag out, so that it runs"
        )
    of_code = iter(outputs)

    def filled(cell):
        if not (source := SOURCE.search(cell)):
            return cell
        kept = CELL_ID.sub(CELL_ID.search(cell)[0], next(of_code), count=1)
        return SOURCE.sub(lambda _: source[0], kept, count=1)

    return head + "".join(map(filled, cells))


def _code(cell):
    """Return the code of a cell of a page, in a form without comments."""
    source = html.unescape(re.sub(r"<[^>]*>", "", SOURCE.search(cell)[1]))
    return ast.dump(ast.parse(source))


def spaced(formula: str) -> str:
    """Return a formula in MathML with a thin space around the name of a function: y log p.

    There is none after another operator, at the beginning, or before a bracket.
    """

    def function(found):
        before, name, bracket = (text or "" for text in found.groups())
        spaces = f'lspace="{"0" if before else ".17em"}" rspace="{"0" if bracket else ".17em"}"'
        return f"{before}<mo {spaces}>{name}</mo>{bracket}"

    return FUNCTION.sub(function, formula)


def together(found: re.Match) -> str:
    """Return a formula in a line, such that the line is not broken before the point after it."""
    return f'<span class="together">{found[0]}</span>' if found[1] or found[3] else found[0]


def laid_out(path: Path, body: str) -> str:
    """Return the page of a tutorial around `body`, the cells of its notebook in HTML."""
    from pygments.formatters import HtmlFormatter

    body = re.sub(r"<pre>([^<]*)</pre>", _with_tables, body.replace(BETWEEN, ""))
    around = [*tutorials(), None]
    at = around.index(path)
    fast = os.environ.get("MINILSTM_FAST") == "1"
    parts = {
        "title": title(path),
        "hash": hash_of(path),
        "light": HtmlFormatter(style="friendly").get_style_defs(".highlight"),
        "dark": HtmlFormatter(style="monokai").get_style_defs(".highlight"),
        "note": FAST_NOTE * fast,
        "previous": _link(around[at - 1], "&larr; "),
        "next": _link(around[at + 1], "", " &rarr;"),
        "body": body,
    }
    return Template(PAGE).substitute(parts)


def _with_tables(printed):
    """Replace the Markdown tables in a <pre> of printed text by tables of HTML."""

    def table(found):
        rows = [line.strip("| ").split(" | ") for line in found[0].splitlines()]
        head, *rows = (row for row in rows if set("".join(row)) - set("-: "))
        cells = _row(head, "th") + "".join(_row(row, "td") for row in rows)
        cells = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", cells)
        return f"</pre><table>{cells}</table><pre>"

    return re.sub(r"<pre>\s*</pre>", "", f"<pre>{TABLE.sub(table, printed[1])}</pre>")


def _row(cells, tag):
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _link(path, before="", after=""):
    return (
        f'<a href="{path.stem}.html">{before}{title(path)}{after}</a>' if path else "<span></span>"
    )


def index(folder: Path) -> Path:
    """Write the gallery's first page, with a link to every page that exists. Return its path."""
    rows = []
    for path in tutorials():
        name = re.search(r"\(images/(.+)\)", path.read_text("utf-8"))[1]  # the first picture
        data = io.BytesIO()
        with Image.open(FOLDER / "images" / name) as picture:
            picture = picture.convert("RGB")
            picture.thumbnail((480, 480))
            picture.quantize(32, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        data = base64.b64encode(data.getvalue()).decode()
        picture = f'<img src="data:image/png;base64,{data}" alt="">'
        if (folder / f"{path.stem}.html").exists():
            rows.append(f'<li><a href="{path.stem}.html">{picture}<b>{title(path)}</b></a></li>')
    write_file(folder / "index.html", Template(INDEX).substitute(rows="\n".join(rows)).encode())
    return folder / "index.html"


FAST_NOTE = """<p class="note">This page was made in fast mode. Its numbers are those of very short
trainings, and not those that the text speaks of.</p>"""

COLOURS = """:root { color-scheme: light dark; --ink: #222; --paper: #fff; --code: #f6f6f2;
        --line: #ccc; --link: #0072B2; --note: #fdf1d8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --paper: #181818; --code: #242424; --line: #555; --link: #79c0f2;
          --note: #4a3a12 }
  img { filter: brightness(.85) }
}
body { color: var(--ink); background: var(--paper) }
a { color: var(--link) }"""

PAGE = (
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width">
<meta name="script-sha256" content="$hash">
<style>
$light
@media (prefers-color-scheme: dark) {
$dark
}
"""
    + COLOURS
    + """
body { font: 17px/1.5 sans-serif; max-width: 820px; margin: 1em auto; padding: 0 1em }
nav { display: flex; justify-content: space-between; gap: 1em; font-size: 14px; padding: .5em 0 }
nav a[href="index.html"] { white-space: nowrap }
a.anchor-link { display: none }
img { max-width: 100% }
code { font-size: .88em }
/* 100 characters of code fit, down to a window of 700 pixels */
pre { font-size: clamp(10.4px, 1.54vw, 13px); line-height: 1.4; overflow-x: auto;
      padding: .6em .8em; margin: .5em 0 }
pre code { font-size: inherit }
.highlight, .highlight pre { background: var(--code) }
.output_subarea pre { border-left: 3px solid var(--line); white-space: pre-wrap }
.prompt { display: none }
table { border-collapse: collapse; font-size: 15px; margin: .5em 0 }
td, th { border-bottom: 1px solid var(--line); padding: .25em .6em; text-align: left }
/* the padding keeps raised letters visible: what overflows upwards would be cut */
math[display=block] { margin: .4em 0; padding: .4em 0; overflow-x: auto; overflow-y: hidden }
.together { white-space: nowrap }
.note { background: var(--note); padding: .6em }
</style></head><body>
<nav>$previous<a href="index.html">all tutorials</a>$next</nav>
$note
$body
<nav>$previous<a href="index.html">all tutorials</a>$next</nav>
</body></html>
"""
)

INDEX = (
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>minilstm tutorials</title>
<meta name="viewport" content="width=device-width">
<style>
"""
    + COLOURS
    + """
body { font: 17px/1.4 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }
ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1.5em;
     list-style: none; padding: 0 }
a { text-decoration: none }
img { display: block; width: 100%; height: 160px; object-fit: contain; margin-bottom: .5em;
      background: #fff }
</style></head><body>
<h1>minilstm tutorials</h1>
<p>From one neuron to predicting the future of a film. The first fifteen follow the slides.</p>
<ul>
$rows
</ul></body></html>
"""
)


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(
        prog="python tutorials/run.py",
        description="List the tutorials, run them, or make web pages of them.",
    )
    parser.add_argument(
        "tutorials", nargs="*", metavar="NUMBER",
        help="numbers of the tutorials to run, `all`, or `stale`: those that have no page in the "
        "gallery, or were changed since; without one, list them",
    )  # fmt: skip
    parser.add_argument("--fast", action="store_true", help="run each as briefly as possible")
    parser.add_argument(
        "--images", action="store_true", help="renew the committed pictures in tutorials/images/"
    )
    parser.add_argument(
        "--gallery",
        action="store_true",
        help="write web pages to tutorials/gallery/; with --fast to tutorials/build/gallery/",
    )
    parser.add_argument(
        "--keep-outputs",
        action="store_true",
        help="with --gallery: run nothing and keep the outputs of each page, where only text and "
        "comments have changed",
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, default=1,
        help="threads of the matrix products (default: 1, the best for these small models on a "
        "machine with other work)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    # an exception ends the tutorial that runs now; the signal alone would leave it behind
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    flags, some = "--fast --images --gallery --keep-outputs --threads", bool(options.tutorials)
    parser.expect_effect(
        [
            (flags, some, "numbers of tutorials, all or stale"),
            ("--keep-outputs", options.gallery, "--gallery"),
            ("--fast --images --threads", not options.keep_outputs, "no --keep-outputs"),
        ]
    )
    if options.threads < 1:
        raise ConfigError(f"expected --threads >= 1, got {options.threads}: take 1, for instance")
    os.environ |= dict.fromkeys(VARIABLES, str(options.threads))  # for the tutorials
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
    folder = FOLDER / "build" / "gallery" if options.fast else GALLERY
    failed = []
    for path in chosen(options.tutorials):
        if not (page(path, folder, options.keep_outputs) if options.gallery else run(path)):
            failed.append(path.name)
    if options.gallery:
        print(index(folder))
    if failed:
        print("failed:", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
