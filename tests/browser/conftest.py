"""One JupyterLab for all modules: loading it costs more than most of what is tested in it."""

from __future__ import annotations

import contextlib

import pytest
from playwright.sync_api import Error

from .lab import LIGHT, new_page, run_lab


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory):
    """A server of JupyterLab and Notebook 7, in which each module has a notebook and kernels of its own."""
    folder = tmp_path_factory.mktemp("jupyter")
    root, scratch = folder / "root", folder / "scratch"
    root.mkdir()
    scratch.mkdir()
    with run_lab(root, scratch) as made:
        yield made


class SharedTab:
    """A tab with JupyterLab that modules use one after the other."""

    def __init__(self):
        self._profile = contextlib.ExitStack()
        self._page = None

    def open(self, browser, path, jupyter):
        """Show a notebook where nothing else is open, in light colours, with no widgets saved."""
        if self._page is None or self._page.page.is_closed() or self._page.page.context.browser is not browser:
            self._page = self._profile.enter_context(new_page(browser))
            self._page.open(jupyter.address(path))
        else:
            self._page.show(path.relative_to(jupyter.root))
        self._page.errors.clear()
        return self._page

    def leave(self, *, is_as_it_was):
        """Close all notebooks, or the tab if a test may have left anything else in it."""
        try:
            if is_as_it_was and self._page.page.locator(".jp-Dialog").count() == 0:
                self._page.close_all()
                self._page.save_widgets(False)
                self._page.use_theme(LIGHT)
                return
        except Error:  # nothing can be done with it any more
            pass
        self.close()

    def close(self):
        """Close the tab; the next module opens another one."""
        self._page = None
        with contextlib.suppress(Error):
            self._profile.close()


@pytest.fixture(scope="session")
def shared_tab(shared_chromium):
    tab = SharedTab()
    yield tab
    with shared_chromium.use():
        tab.close()


@pytest.fixture(scope="module")
def open_lab(request, chromium, jupyter, shared_tab):
    """A function that opens a notebook in JupyterLab and gives the page.

    The page has been there before, unless a test of an earlier module failed on it.
    """
    num_failed = request.session.testsfailed
    yield lambda path: shared_tab.open(chromium, path, jupyter)
    try:
        shared_tab.leave(is_as_it_was=request.session.testsfailed == num_failed)
    finally:
        jupyter.end_kernels()
