"""What `mkdocs` can't do by itself: pages from files elsewhere in the repository, and tables made from the code.

Hooks of mkdocs, which calls them by name; see ``mkdocs.yml``. A page that can't be made ends the build.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from llmapi_kit.api.openai.neutral_values import ANYTHING, NEUTRAL
from llmapi_kit.cli.app import app
from llmapi_kit.config import Settings

logger = logging.getLogger("mkdocs.plugins.docs_site")

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
DAY_S = 86400
# What the site has besides the files in docs/: its name there, and where it is.
ELSEWHERE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "clients.md": "examples/README.md",
    "benchmark.md": "benchmarks/results/serving.md",
    "pocket.md": "llmapi_kit/checkpoints/pocket/README.md",
    "images/serving.png": "benchmarks/results/serving.png",
}
FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[(?P<text>[^\]\n]*)\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
SETTINGS = re.compile(r"<!-- settings until (\w+) -->")
FLAGS = re.compile(r"<!-- flags of (\w+) -->")
NEUTRAL_VALUES = "<!-- values that ask for nothing -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from elsewhere."""
    for name, path in ELSEWHERE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the tables, and point links to where things are in the site."""
    source = ROOT / ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    markdown = FLAGS.sub(lambda found: flags_table(found[1]), fill_in_settings(markdown))
    markdown = markdown.replace(NEUTRAL_VALUES, neutral_values_table())
    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(lambda link: site_link(link, source), text) for text in parts[::2]]
    return "".join(parts)


def site_link(link: re.Match[str], source: Path) -> str:
    """A link as it is in the site; its text alone where it leads to a file that the site does not have."""
    target = link["target"]
    if not target or "://" in target or target.startswith("mailto:"):
        return link[0]
    path = (source.parent / target).resolve()
    if not path.is_relative_to(ROOT) or not path.exists():
        logger.warning("%s links to %s, which is not there", source.relative_to(ROOT), target)
        return link[0]
    names = {place: name for name, place in ELSEWHERE.items()}
    where = str(path.relative_to(DOCS)) if path.is_relative_to(DOCS) else names.get(str(path.relative_to(ROOT)))
    return f"[{link['text']}]({where}{link['anchor'] or ''})" if where else link["text"]


def fill_in_settings(markdown: str) -> str:
    """Put a table in place of each marker; it has the settings up to the one that the marker names.

    Raises:
        PluginError: a marker names no setting, or settings are left over.
    """
    if not SETTINGS.search(markdown):
        return markdown
    names = list(Settings.model_fields)

    def table(marker: re.Match[str]) -> str:
        if marker[1] not in names:
            raise PluginError(f"{marker[0]}: there is no such setting, or another marker has it already.")
        end = names.index(marker[1]) + 1
        shown, names[:end] = names[:end], []
        return settings_table(shown)

    filled = SETTINGS.sub(table, markdown)
    if names:
        raise PluginError(f"No marker shows the settings {', '.join(names)}.")
    return filled


def settings_table(names: list[str]) -> str:
    """Settings with default, range and meaning, as Markdown."""
    meanings = setting_meanings()
    rows = [f"| `{name}` | {default_of(name)} | {range_of(name)} | {meanings[name]} |" for name in names]
    return "\n".join(["| Setting | Default | Allowed | |", "|---|---|---|---|", *rows])


def setting_meanings() -> dict[str, str]:
    """What the docstring of `Settings` says of each."""
    docstring = griffe.Docstring(inspect.getdoc(Settings) or "")
    section = next(part for part in docstring.parse("google") if part.kind is griffe.DocstringSectionKind.attributes)
    return {item.name: as_sentence(item.description) for item in section.value}


def as_sentence(text: str) -> str:
    """Text from a docstring in one line, with a capital at its beginning."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line[:1].upper() + line[1:]


def default_of(name: str) -> str:
    """The default of a setting, readable; none where it depends on the machine."""
    value = Settings.model_fields[name].default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        days = f" ({value / DAY_S:g} days)" if name.endswith("_s") and value >= DAY_S else ""
        return f"{value:,}{days}"
    if isinstance(value, tuple):
        return ", ".join(f"`{part}`" for part in value)
    return f"`{value}`" if isinstance(value, str) and value else ""


def range_of(name: str) -> str:
    """The numbers, or words, that a setting can be."""
    schema = Settings.model_json_schema()["properties"][name]
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        return f"above {schema['exclusiveMinimum']:,}, up to {highest:,}"
    if lowest is None:
        return ""
    return f"{lowest:,} or more" if highest is None else f"{lowest:,} to {highest:,}"


def neutral_values_table() -> str:
    """The fields that are accepted with a value that asks for nothing, as Markdown."""
    rows = [f"| `{path}` | {in_words(values)} |" for path, values in sorted(NEUTRAL.items())]
    return "\n".join(["| Field | Value |", "|---|---|", *rows])


def in_words(values: tuple[object, ...]) -> str:
    """Values as JSON, or that any will do."""
    return "any" if values == (ANYTHING,) else " or ".join(f"`{json.dumps(value)}`" for value in values)


def flags_table(command: str) -> str:
    """The options of a command, as Markdown."""
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    rows = [f"| {names} | {as_sentence(text)} |" for names, text in flags_of(found)]
    return "\n".join(["| Flag | |", "|---|---|", *rows])


def flags_of(command: typer.core.TyperCommand) -> Iterator[tuple[str, str]]:
    """Names and help of each option of a command."""
    for option in command.params:
        if option.param_type_name == "option":
            default = f" Default: {option.default}." if isinstance(option.default, int | str) and option.default else ""
            yield ", ".join(f"`{name}`" for name in option.opts), f"{getattr(option, 'help', '') or ''}{default}"
