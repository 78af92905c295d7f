"""JupyterLab and Notebook 7, and a page of Chromium on them, for tests: open a notebook, run, save and see it.

Everything lives below a temporary folder and on loopback; programs end with the `with` statement.
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
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from llmapi_kit.server.port import bind

from .chromium import new_profile, open_chromium

START_TIMEOUT_S = 60
# Every cell is in the page, nothing is saved unasked, and no pop-up covers it
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
APPS = ("LabApp", "JupyterNotebookApp")
PLACES = {"lab": "doc/tree", "notebook": "notebooks"}  # where each shows a notebook
SAVE_WIDGETS = "@jupyter-widgets/jupyterlab-manager:saveWidgetState"  # in the menu; switches it on and off
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
CURRENT = "window.jupyterapp.shell.currentWidget"
KERNEL = f"{CURRENT}?.sessionContext?.session?.kernel"
POLL_MS = 50


def write_notebook(path, *, kernel="python3", **cells):
    """A notebook of code cells, by their ids, for a kernel of this name."""
    cells = [new_code_cell(code, id=name) for name, code in cells.items()]
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": spec}), path)


class Jupyter:
    """A server of JupyterLab and Notebook 7 over a folder.

    Args:
        url: of the server.
        token: that it asks for.
        root: the folder.
        scratch: another, of what the program keeps.
        settings: of JupyterLab's extensions.
    """

    def __init__(self, url, token, root, scratch, settings):
        self._url = url
        self._token = token
        self.root = root
        self._scratch = scratch
        self._settings = settings
        self._set_up()

    def address(self, path, program="lab"):
        """Where a program of `PLACES` shows a notebook."""
        return self._at(f"{PLACES[program]}/{path.relative_to(self.root)}")

    def add_notebook(self, name, *files, env=None, **cells):
        """Make a notebook in a folder of its own, whose kernels have an environment and a home of their own.

        Args:
            name: of the folder and of the kernels.
            files: to copy beside it, where its kernel can import them.
            env: variables for its kernels.
            cells: their code, by their ids.

        Returns:
            The notebook's path.
        """
        kernel = self._scratch / "data" / "kernels" / name / "kernel.json"
        kernel.parent.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        env = {"LLMAPI_KIT_HOME": str(self._scratch / "homes" / name), **(env or {})}
        kernel.write_text(json.dumps({"argv": argv, "env": env, "display_name": name, "language": "python"}))
        folder = self.root / name
        folder.mkdir()
        for each in files:
            shutil.copy(each, folder)
        write_notebook(folder / "all.ipynb", kernel=name, **cells)
        return folder / "all.ipynb"

    @contextlib.contextmanager
    def without(self, *extensions):
        """Pages that are loaded meanwhile have none of these."""
        page_config = self._scratch / "config" / "labconfig" / "page_config.json"
        page_config.parent.mkdir(parents=True, exist_ok=True)
        page_config.write_text(json.dumps({"disabledExtensions": dict.fromkeys(extensions, True)}))
        try:
            yield
        finally:
            page_config.unlink()

    def begin_anew(self):
        """End the kernels of all notebooks, and forget which settings were changed in a page."""
        for session in json.loads(self._ask("api/sessions")):
            with contextlib.suppress(urllib.error.HTTPError):  # it has ended by itself
                self._ask(f"api/sessions/{session['id']}", "DELETE")
        shutil.rmtree(self._scratch / "settings")
        self._set_up()

    def is_up(self):
        """Whether it answers."""
        try:
            self._ask("api/status", timeout_s=2)
        except OSError:
            return False
        return True

    def _set_up(self):
        for name, values in self._settings.items():
            path = self._scratch / "settings" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))

    def _at(self, path):
        return f"{self._url}/{path}?token={self._token}"

    def _ask(self, path, method="GET", timeout_s=60):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self._at(path), method=method), timeout=timeout_s) as answer:
            return answer.read()


@contextlib.contextmanager
def run_lab(root, scratch, settings=SETTINGS):
    """Run a `Jupyter` over a folder.

    Args:
        root: the folder.
        scratch: another, for what the program keeps.
        settings: of JupyterLab's extensions.
    """
    config = {"expose_app_in_browser": True, "user_settings_dir": str(scratch / "settings")}
    (scratch / "config").mkdir()
    (scratch / "config" / "jupyter_server_config.json").write_text(json.dumps(dict.fromkeys(APPS, config)))
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    token = secrets.token_hex(16)
    places = {f"JUPYTER_{kind}_DIR": str(scratch / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    env = {**os.environ, **places, "IPYTHONDIR": str(scratch / "ipython"), "JUPYTER_TOKEN": token}
    env.setdefault("LLMAPI_KIT_HOME", str(scratch / "home"))  # not what this machine's user has
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}"]
    jupyter = Jupyter(f"http://127.0.0.1:{port}", token, root, scratch, settings)
    log_path = scratch / "lab.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            _wait_until_it_answers(process, jupyter, log_path)
            yield jupyter
        finally:
            process.terminate()  # which shuts its kernels down first
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_it_answers(process, jupyter, log_path):
    deadline = time.monotonic() + START_TIMEOUT_S
    while not jupyter.is_up():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("It did not start:\n" + Path(log_path).read_text()[-2000:])
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
        """Go to a notebook and wait until its kernel is idle."""
        self.page.goto(url)
        self.page.wait_for_function(f"() => window.jupyterapp && {KERNEL}?.status === 'idle'", polling=POLL_MS)

    def save_widgets(self, is_saved):
        """Choose whether the state of widgets is saved with a notebook."""
        toggle = """async ([name, wanted]) => {
            const { commands } = window.jupyterapp;
            if (commands.isToggled(name) !== wanted) await commands.execute(name);
        }"""
        self.page.evaluate(toggle, [SAVE_WIDGETS, is_saved])

    def run_all(self):
        """Run every cell and wait for the end."""
        self.page.evaluate(
            "() => { window.hasRun = false; window.jupyterapp.commands.execute('notebook:run-all-cells')"
            ".finally(() => { window.hasRun = true; }); }"
        )
        self.page.wait_for_function("() => window.hasRun", polling=POLL_MS)

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
        self.page.wait_for_function(f"() => {CURRENT}.context.model.dirty === false", polling=POLL_MS)

    def use_theme(self, name):
        """Change JupyterLab's colours."""
        self.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        self.page.locator(f"body[data-jp-theme-name='{name}']").wait_for(state="attached")
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")  # it covers the notebook for a while

    def outputs(self):
        """Locator of all outputs."""
        return self.page.locator(".jp-OutputArea-output")


@contextlib.contextmanager
def new_page(browser):
    """A `LabPage` in a profile of its own; its clipboard may be written and read."""
    with new_profile(browser, size=(1200, 1000)) as profile:
        page = profile.new_page()
        page.set_default_timeout(60_000)
        page.clock.install()  # it goes on as usual, and a test may put it forward
        yield LabPage(page)


@contextlib.contextmanager
def open_page():
    """A `LabPage` in a Chromium of its own."""
    with open_chromium() as browser, new_page(browser) as page:
        yield page
