"""The documentation's pages and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *ROOT.glob("docs/*.md"))
)
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page, and why it can't run, where it can't."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None


def blocks(page, language):
    """The blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, match.start("code")) + 1, match["language"], match["code"], match["reason"])
        for match in BLOCK.finditer(text)
    ]
    assert len(found) * 2 == len(re.findall(r"^\s*```", text, re.MULTILINE)), f"{page} has a block that is not read"
    return [block for block in found if block.language == language]
