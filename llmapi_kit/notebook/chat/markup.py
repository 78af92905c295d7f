"""A model's Markdown as HTML that can do nothing: no markup of its own, no script, no link but to the web, no picture.

For saved notebooks and the plain front end; the rich one renders in the page, with the same rules. Styles stand inline
where they matter, as front ends strip style sheets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline

# These turn what follows around or hide in it; shown by their numbers. Joiners stay: emoji and Persian need them.
INVISIBLE = re.compile("[\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
SAFE_LINK = re.compile(r"(?:https?:|mailto:|#)", re.IGNORECASE)
# $…$, $$…$$, \\(…\\) and \\[…\\]; a price is not a formula: see markdown.js
MATH = re.compile(r"\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|\$(?!\s)(?:\\.|[^$\\\n])+?(?<!\s)\$(?!\d)", re.DOTALL)
NO_MATH = "mathjax_ignore tex2jax_ignore"  # classes of what MathJax, of either generation, leaves alone
DOLLAR = f'<span class="{NO_MATH}">$</span>'
MAX_RENDERED = 100_000  # characters; longer texts are shown as they are


def show_invisible(text: str) -> str:
    """A text with its invisible and direction-changing characters made visible."""
    return INVISIBLE.sub(lambda found: f"\u27e6U+{ord(found.group()):04X}\u27e7", text)


def render_markdown(text: str) -> str:
    """Markdown as safe HTML."""
    if len(text) > MAX_RENDERED:
        return f'<pre style="white-space:pre-wrap;overflow-wrap:anywhere">{escape(show_invisible(text))}</pre>'
    return str(_parser().render(show_invisible(text)))


@lru_cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.inline.ruler.before("escape", "math", _keep_math)
    parser.renderer.rules.update(text=_render_text, math=_render_math)  # type: ignore[attr-defined]
    parser.disable("image")  # fetching one would tell its server what was said
    parser.validateLink = _is_safe_link  # type: ignore[method-assign]  # as its documentation says
    return parser


def _is_safe_link(url: str) -> bool:
    return SAFE_LINK.match(url.strip()) is not None


def _keep_math(state: StateInline, silent: bool) -> bool:
    """A formula stays as it is written: front ends typeset it, and people can read it."""
    if state.src[state.pos] not in "$\\" or (found := MATH.match(state.src, state.pos)) is None:
        return False
    if not silent:
        state.push("math", "", 0).content = found.group()
    state.pos = found.end()
    return True


def _render_math(tokens: Sequence[Any], index: int, *_: Any) -> str:
    return escape(tokens[index].content)


def _render_text(tokens: Sequence[Any], index: int, *_: Any) -> str:
    """A dollar that begins no formula is money."""
    return escape(tokens[index].content).replace("$", DOLLAR)
