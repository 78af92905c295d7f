"""Takes the pictures of the documentation: real notebooks in a real JupyterLab in Chromium.

    python tools/pictures.py [NAME ...] [--out FOLDER] [--width PIXELS]

Each ``tools/pictures/NAME.py`` is a notebook in the percent format. All of its cells run; the pictures, NAME.png and
NAME-dark.png, are of what `SUBJECTS` names, after so many seconds. Needs what `make test` installs.
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

from tests.browser.lab import DARK, LIGHT, LabPage, open_page, run_lab  # noqa: E402  (tests are no installed package)

SOURCES = ROOT / "tools" / "pictures"
MAX_BYTES = 200_000
THEMES = {"": LIGHT, "-dark": DARK}  # by what a picture's name ends with
REDRAWN_WITHIN_S = 2.5  # a dashboard's curves take the colours of a theme with the next sample


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
    "chat": Subject(".llmapi-kit-chat"),
    "chat-side-by-side": Subject(".llmapi-kit-chat"),
    "choose": Subject(".jp-OutputArea-output .widget-vbox >> nth=0"),
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
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        for path in take(name, arguments.out, width=arguments.width):
            print(f"{path}: {path.stat().st_size / 1000:,.0f} kB")
    return 0


def take(name: str, folder: Path, *, width: int | None = None) -> list[Path]:
    """Take the pictures of one notebook, a light and a dark one."""
    subject = SUBJECTS.get(name, Subject(".jp-OutputArea-output >> nth=-1"))
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with tempfile.TemporaryDirectory() as temporary:
        root, scratch = Path(temporary) / "root", Path(temporary) / "scratch"
        root.mkdir()
        scratch.mkdir()
        nbformat.write(read_notebook(SOURCES / f"{name}.py"), root / f"{name}.ipynb")
        with run_lab(root, scratch) as jupyter, open_page() as lab:
            lab.page.set_viewport_size({"width": width or subject.width, "height": 2000})
            lab.open(jupyter.address(root / f"{name}.ipynb"))
            lab.run_all()
            lab.page.wait_for_timeout(subject.wait_s * 1000)
            for ending, theme in THEMES.items():
                taken.append(folder / f"{name}{ending}.png")
                lab.use_theme(theme)
                lab.page.wait_for_timeout(REDRAWN_WITHIN_S * 1000)
                take_element(lab, subject.selector, taken[-1])
    return taken


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
