"""A JupyterLab or Notebook 7 of its own and a Chromium page on it, for tests: open a notebook, run, save and see it.

Everything lives below a temporary folder and on loopback; both programs end with the `with` statement.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import sync_playwright

from llmapi_kit.server.port import bind

START_TIMEOUT_S = 60
# Every cell is in the page, nothing is saved unasked, and no pop-up covers it
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
SAVES_WIDGETS = {"@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True}}
# By the module that is run: the class of its settings, and where it shows a notebook
PLACES = {"jupyterlab": ("LabApp", "doc/tree"), "notebook": ("JupyterNotebookApp", "notebooks")}
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
CURRENT = "window.jupyterapp.shell.currentWidget"


def find_chromium():
    """Chromium's path, without windows if it is there; CHROMIUM in the environment names another one."""
    names = (os.environ["CHROMIUM"],) if "CHROMIUM" in os.environ else ("chromium-headless-shell", "chromium")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        raise RuntimeError("The browser tests need Chromium. `make test` installs it; or set CHROMIUM to its path.")
    return path


def write_notebook(path, **cells):
    """A notebook of code cells, by their ids."""
    cells = [new_code_cell(code, id=name) for name, code in cells.items()]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@contextlib.contextmanager
def run_lab(root, scratch, settings=SETTINGS, *, program="jupyterlab", without=()):
    """A program over a folder; yields a function from a notebook's name to its address.

    Args:
        root: the folder.
        scratch: another, for what the program keeps.
        settings: of JupyterLab's extensions.
        program: of `PLACES`.
        without: names of extensions that it does not load.
    """
    app, tree = PLACES[program]
    for name, values in settings.items():
        path = scratch / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    page_config = scratch / "config" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True)
    page_config.write_text(json.dumps({"disabledExtensions": dict.fromkeys(without, True)}))
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    token = secrets.token_hex(16)
    places = {f"JUPYTER_{kind}_DIR": str(scratch / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    env = {**os.environ, **places, "IPYTHONDIR": str(scratch / "ipython"), "JUPYTER_TOKEN": token}
    env.setdefault("LLMAPI_KIT_HOME", str(scratch / "home"))  # not what this machine's user has
    command = [sys.executable, "-m", program, "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}"]
    command += [f"--{app}.expose_app_in_browser=True", f"--{app}.user_settings_dir={scratch / 'settings'}"]
    log_path = scratch / "lab.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            _wait_until_it_answers(process, f"http://127.0.0.1:{port}/api/status?token={token}", log_path)
            yield lambda name: f"http://127.0.0.1:{port}/{tree}/{name}?token={token}"
        finally:
            process.terminate()  # which shuts its kernels down first
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_answers(process, url, log_path):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with opener.open(url, timeout=2):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("It did not start:\n" + Path(log_path).read_text()[-2000:]) from None
            time.sleep(0.1)


class LabPage:
    """A notebook in JupyterLab in Chromium.

    Attributes:
        page: Playwright's page.
        errors: what the browser's console called an error.
    """

    def __init__(self, page):
        self.page = page
        self.errors = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, url):
        """Open a notebook and wait until its kernel is idle."""
        self.page.goto(url)
        self.page.wait_for_function(
            f"() => window.jupyterapp && {CURRENT}?.sessionContext?.session?.kernel?.status === 'idle'"
        )

    def run_all(self):
        """Run every cell and wait for the end."""
        self.page.evaluate(
            "() => { window.hasRun = false; window.jupyterapp.commands.execute('notebook:run-all-cells')"
            ".finally(() => { window.hasRun = true; }); }"
        )
        self.page.wait_for_function("() => window.hasRun")

    def execute(self, code):
        """Run code in the notebook's kernel, without a cell; returns when it is done, and raises if it failed."""
        done = f"{CURRENT}.sessionContext.session.kernel.requestExecute({{code, store_history: false}}).done"
        content = self.page.evaluate(f"async code => (await {done}).content", code)
        if content["status"] != "ok":
            raise RuntimeError(f"{content.get('ename')}: {content.get('evalue')}")

    def start(self, code):
        """Run code in the notebook's kernel, and don't wait for its end."""
        ask = f"{CURRENT}.sessionContext.session.kernel.requestExecute({{code, store_history: false}})"
        self.page.evaluate(f"code => {{ {ask}; }}", code)

    def ask_over_subshell(self):
        """Have something done beside the cell that runs; what JupyterLab takes the kernel's status for after that."""
        code = f"""async () => {{
            const kernel = {CURRENT}.sessionContext.session.kernel;
            const beside = kernel.clone();
            beside.subshellId = (await kernel.requestCreateSubshell({{}}).done).content.subshell_id;
            await beside.requestExecute({{code: "1", store_history: false}}).done;
            return kernel.status;
        }}"""
        return self.page.evaluate(code)

    def interrupt(self):
        """Interrupt the notebook's kernel."""
        self.page.evaluate(f"() => {CURRENT}.sessionContext.session.kernel.interrupt()")

    def restart_kernel(self):
        """Restart the notebook's kernel, and wait until it is asked."""
        self.page.evaluate(f"() => {CURRENT}.sessionContext.session.kernel.restart()")

    def save(self):
        """Save the notebook, widget state included, and wait until it is on disk."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        self.page.wait_for_function(f"() => {CURRENT}.context.model.dirty === false")

    def use_theme(self, name):
        """Change JupyterLab's colours."""
        self.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        self.page.locator(f"body[data-jp-theme-name='{name}']").wait_for(state="attached")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")  # it covers the notebook for a while

    def outputs(self):
        """Locator of all outputs."""
        return self.page.locator(".jp-OutputArea-output")


@contextlib.contextmanager
def open_page(timeout_s=60):
    """A `LabPage`; its clipboard may be written and read."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
        )
        try:
            context = browser.new_context(viewport={"width": 1200, "height": 1000})
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            page = context.new_page()
            page.set_default_timeout(timeout_s * 1000)
            page.clock.install()  # it goes on as usual, and a test may put it forward
            yield LabPage(page)
        finally:
            browser.close()
