"""Back ends that other packages bring: entry points of the group ``llmapi_kit.engines``.

An entry point's name is what stands before the colon of a model's name. Looks at what is installed; imports nothing
of it.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from llmapi_kit.errors import ConfigError

GROUP = "llmapi_kit.engines"


def find_plugin(name: str) -> EntryPoint | None:
    """The entry point of a name; None where no package has one.

    Raises:
        ConfigError: several packages have one.
    """
    found = {(entry.value, package_of(entry)): entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        packages = ", ".join(sorted(package for _, package in found))
        raise ConfigError(f"Several packages bring a back end {name!r}: {packages}. Uninstall all but one.")
    return next(iter(found.values()), None)


def plugin_names() -> list[str]:
    """The names there are."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def package_of(entry: EntryPoint) -> str:
    """The package that brings an entry point, for messages."""
    return entry.dist.name if entry.dist is not None else entry.module
