"""Takes the pictures of the documentation: real notebooks in a real JupyterLab in Chromium.

    python tools/pictures.py [NAME ...] [--out FOLDER] [--width PIXELS] [--dark]

Each ``tools/pictures/NAME.py`` is a notebook in the percent format. All of its cells run; the picture, NAME.png, is of
what `SUBJECTS` names, after so many seconds. Needs what `make test` installs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser.lab import SETTINGS, LabPage, open_page, run_lab  # noqa: E402  (tests are no installed package)

SOURCES = ROOT / "tools" / "pictures"
MAX_BYTES = 200_000
THEME = "@jupyterlab/apputils-extension/themes"


@dataclass(frozen=True)
class Subject:
    """What a picture is of.

    Attributes:
        selector: of the element.
        wait_s: how long after the cells have run.
        width: of the window, in pixels.
    """

    selector: str
    wait_s: float = 1.5
    width: int = 1280


SUBJECTS = {
    "card": Subject(".llmapi-kit-card"),
    "dashboard": Subject(".llmapi-kit-dashboard", wait_s=45),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = sorted(path.stem for path in SOURCES.glob("*.py"))
    parser.add_argument(
        "names", nargs="*", default=there, metavar="NAME", help=f"of {', '.join(there)}; all by default"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--width", type=int, help="of the window")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        path = arguments.out / f"{name}.png"
        take(name, path, width=arguments.width, is_dark=arguments.dark)
        print(f"{path}: {path.stat().st_size / 1000:,.0f} kB")
    return 0


def take(name: str, path: Path, *, width: int | None = None, is_dark: bool = False) -> None:
    """Take one picture."""
    subject = SUBJECTS.get(name, Subject(".jp-OutputArea-output >> nth=-1"))
    settings = {**SETTINGS, THEME: {"theme": "JupyterLab Dark"}} if is_dark else SETTINGS
    with tempfile.TemporaryDirectory() as folder:
        root, scratch = Path(folder) / "root", Path(folder) / "scratch"
        root.mkdir()
        scratch.mkdir()
        nbformat.write(read_notebook(SOURCES / f"{name}.py"), root / f"{name}.ipynb")
        with run_lab(root, scratch, settings) as address, open_page() as lab:
            lab.page.set_viewport_size({"width": width or subject.width, "height": 2000})
            lab.open(address(f"{name}.ipynb"))
            lab.run_all()
            lab.page.wait_for_timeout(subject.wait_s * 1000)
            path.parent.mkdir(parents=True, exist_ok=True)
            take_element(lab, subject.selector, path)


def take_element(lab: LabPage, selector: str, path: Path) -> None:
    """A picture of the last such element."""
    if lab.errors:
        raise RuntimeError("The page has errors:\n" + "\n".join(lab.errors))
    lab.page.locator(selector).last.screenshot(path=path)
    if path.stat().st_size > MAX_BYTES:
        raise RuntimeError(f"{path} has {path.stat().st_size:,} bytes; pictures have {MAX_BYTES:,} at most.")


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook in the percent format."""
    cells = path.read_text(encoding="utf-8").split("# %%\n")[1:]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=[new_code_cell(cell.rstrip()) for cell in cells], metadata={"kernelspec": kernel})


if __name__ == "__main__":
    sys.exit(main())
