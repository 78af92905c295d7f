"""One server of JupyterLab for all modules."""

from __future__ import annotations

import contextlib

import pytest

from .lab import new_page, run_lab


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory):
    """A server of JupyterLab and Notebook 7, in which each module has a notebook and kernels of its own."""
    folder = tmp_path_factory.mktemp("jupyter")
    root, scratch = folder / "root", folder / "scratch"
    root.mkdir()
    scratch.mkdir()
    with run_lab(root, scratch) as made:
        yield made


@pytest.fixture(scope="module")
def open_lab(chromium, jupyter):
    """A function that opens a notebook in JupyterLab and gives the page, in a profile of its own.

    Each module has a tab of its own: in one that has shown another notebook, widgets were now and then not found.
    """
    with contextlib.ExitStack() as stack:

        def open_lab(path):
            page = stack.enter_context(new_page(chromium))
            page.open(jupyter.address(path))
            return page

        yield open_lab
    jupyter.begin_anew()
