"""`choose`: pick a model with its needs in sight, in a cell by clicking, in a terminal from a table."""

from __future__ import annotations

from llmapi_kit.checkpoints.choice import Choice
from llmapi_kit.checkpoints.needs import load_options
from llmapi_kit.config import load_settings
from llmapi_kit.notebook.chooser.entries import all_entries, recommended
from llmapi_kit.notebook.chooser.machine import look_at_machine
from llmapi_kit.notebook.chooser.text import as_table, footnote
from llmapi_kit.notebook.environment import version_of
from llmapi_kit.places import is_jupyter_kernel


def choose() -> Choice:
    """Choose a model, with what it needs of this machine before anything is downloaded.

    In a notebook: a list to search, with memory, disk, licence and code of each model, and a button that loads it. The
    choice follows the clicks; run the next cell when it is made. Elsewhere the same is printed as a table. Listed are
    models that the kit knows, those in the hub's cache, and model folders and GGUF files in the current folder. Asks
    nobody, but for a name of the hub that is typed.

    Returns:
        What is chosen, at first what is recommended here; `load` and `launch` take it in place of a name.

    Examples:
        >>> choice = kit.choose()  # doctest: +ELLIPSIS
        This machine: ...
        >>> model = kit.load(choice)  # doctest: +SKIP
    """
    machine, settings, entries = look_at_machine(), load_settings(), all_entries()
    found = recommended(entries, machine, settings)
    entry, precision = found or (entries[0], machine.precisions(entries[0].stored)[0])
    choice = Choice(entry.name, load_options(precision, machine.device, entry.stored))
    if is_jupyter_kernel() and version_of("ipywidgets") is not None:
        from llmapi_kit.notebook.chooser.widget import Chooser

        Chooser(choice, entries, machine, settings, recommended=found).show()
        return choice
    word = "Recommended here" if found else "Nothing of the table fits here; without a download there is"
    head = f"This machine: {machine}\n{word}: {choice.name}\n    {choice.code}"
    print(f"{head}\n\n{as_table(entries, machine, settings)}\n\n{footnote()}")  # noqa: T201 - it was asked for
    return choice
