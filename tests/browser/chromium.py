"""Chromium, and profiles in it. Tests get one that is started once for all modules, by the fixture `chromium`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil

from playwright.sync_api import expect, sync_playwright

# Pages live too short for code to be worth optimizing, or garbage to be worth threads
V8 = "--js-flags=--no-opt --single-threaded-gc"
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", V8)
expect.set_options(timeout=60_000)  # a busy machine is no fault
DESKTOP, PHONE = (1280, 800), (390, 844)


def find_chromium():
    """Chromium's path, without windows if it is there; CHROMIUM in the environment names another one."""
    names = (os.environ["CHROMIUM"],) if "CHROMIUM" in os.environ else ("chromium-headless-shell", "chromium")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise RuntimeError("The browser tests need Chromium. `make test` installs it; or set CHROMIUM to its path.")
    return path


def launch(playwright):
    """A browser."""
    return playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)


@contextlib.contextmanager
def open_chromium():
    """A browser that ends with the `with` statement."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def new_profile(browser, *, size=DESKTOP, locale="en-US", **options):
    """A fresh profile, whose clipboard may be written and read."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, locale=locale, **options)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    try:
        yield context
    finally:
        context.close()


class SharedChromium:
    """A browser that modules use one after the other, with tests between them that know nothing of it.

    Playwright leaves its event loop behind as the one that runs in this thread, where no test could run another. So
    the loop counts as running only within `use`.
    """

    def __init__(self):
        self._playwright = self._loop = self._browser = None

    @contextlib.contextmanager
    def use(self):
        """The browser; another one if the last has crashed."""
        if self._playwright is None:
            self._playwright = sync_playwright().start()
            self._loop = asyncio.get_running_loop()
        asyncio._set_running_loop(self._loop)
        try:
            if self._browser is None or not self._browser.is_connected():
                self._browser = launch(self._playwright)
            yield self._browser
        finally:
            asyncio._set_running_loop(None)

    def stop(self):
        if self._playwright is not None:
            asyncio._set_running_loop(self._loop)
            self._playwright.stop()  # and what it has launched
            asyncio._set_running_loop(None)
