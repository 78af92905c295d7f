"""Packages with an entry point, made for one test and found as pip's are: by their metadata on the path."""

from __future__ import annotations

import sys
from textwrap import dedent

GROUP = "llmapi_kit.engines"


def without_collecting_garbage(monkeypatch):
    """Close models without a collection each, which takes most of a second in a process that has torch."""
    for module in ("loading.model", "loading.lazy_model"):
        monkeypatch.setattr(f"llmapi_kit.{module}.release_memory", lambda: 0)


def add_package(monkeypatch, folder, package, code, *, entries):
    """Make a package that can be imported, with entry points.

    Args:
        monkeypatch: takes it from the path again.
        folder: an empty one.
        package: its name, also that of its only module.
        code: of the module.
        entries: names of back ends and what they are in the module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{package}.py").write_text(dedent(code))
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {package}:{what}\n" for name, what in entries.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, package, raising=False)
