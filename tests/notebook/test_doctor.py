"""The doctor: this machine passes, and each check fails when what it looks at is broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import socket
import sys
import types

import pytest

import llmapi_kit as kit
from llmapi_kit.engines.mock import MockEngine
from llmapi_kit.notebook import doctor as doctor_module
from llmapi_kit.notebook import environment
from llmapi_kit.notebook.report import Check, Report


def only(checks):
    (check,) = checks
    return check


def test_this_machine_passes():
    report = kit.doctor()
    assert report.ok, str(report)
    assert report.verdict.startswith("Ready")


def test_python_too_old_is_a_failure(monkeypatch):
    monkeypatch.setattr(doctor_module.sys, "version_info", (3, 9, 1))
    check = only(doctor_module.check_python())
    assert (check.level, check.text) == ("fail", "3.9.1 is too old")
    assert "3.10 to 3.13" in check.advice


def test_python_too_new_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor_module.sys, "version_info", (3, 14, 0))
    assert only(doctor_module.check_python()).level == "warn"


def test_missing_required_package_is_a_failure_and_missing_extra_a_warning(monkeypatch):
    real = environment.version_of
    monkeypatch.setattr(
        environment, "version_of", lambda name: None if name in ("httpx", "transformers") else real(name)
    )
    base, torch, notebook = doctor_module.check_packages()
    assert (base.level, base.text) == ("fail", "httpx is missing")
    assert (torch.level, torch.text) == ("warn", "transformers is missing")
    assert 'pip install --upgrade "llmapi-kit[torch]"' in torch.advice
    assert notebook.level == "ok"


def test_versions_that_are_not_wanted_are_named_beside_what_is(monkeypatch):
    requires = ["httpx>=0.27", "uvicorn>=0.34", "torch>=2.6; extra == 'torch'"]
    requires += ["ipykernel>=6.29,!=7.3.*; extra == 'notebook'", "gguf>=0.19; extra == 'gguf'"]
    versions = {"httpx": "0.9.4", "uvicorn": "0.34.1rc1", "torch": "2.10.1+cu126", "ipykernel": "7.3.1"}
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    monkeypatch.setattr(environment, "version_of", versions.get)
    base, torch, notebook = doctor_module.check_packages()
    assert (base.level, base.text) == ("fail", "httpx is 0.9.4, wanted is >=0.27")
    assert (torch.level, torch.text) == ("ok", "all 1 are installed")
    assert (notebook.level, notebook.text) == ("warn", "ipykernel is 7.3.1, wanted is !=7.3.*,>=6.29")


@pytest.mark.parametrize(
    ("version", "level"), [("6.31.0", "ok"), ("7.0.1", "warn"), ("7.3.0", "warn"), ("7.4.0", "ok")]
)
def test_kernels_that_stop_showing_output_are_left_out(monkeypatch, version, level):
    real = environment.version_of
    monkeypatch.setattr(environment, "version_of", lambda name: version if name == "ipykernel" else real(name))
    *_, notebook = doctor_module.check_packages()
    assert notebook.level == level


def test_missing_torch_is_a_warning(monkeypatch):
    monkeypatch.setattr(environment, "version_of", lambda name: None)
    assert only(doctor_module.check_torch()).level == "warn"


def test_broken_torch_is_a_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what an import of it meets is an ImportError
    check = only(doctor_module.check_torch())
    assert check.level == "fail"
    assert "broken" in check.text


def test_torch_exchanged_after_its_import_is_a_failure(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="1.0", cuda=None))
    monkeypatch.setattr(environment, "see_gpus", lambda: ())
    check = only(doctor_module.check_torch())
    assert check.level == "fail"
    assert check.advice == "Restart the kernel."


def test_gpu_is_named(monkeypatch):
    monkeypatch.setattr(environment, "see_gpus", lambda: (environment.Gpu("A Card", 24 * 2**30),))
    assert "A Card (24 GiB)" in only(doctor_module.check_torch()).text


def test_little_memory_and_disk_are_warnings(monkeypatch):
    monkeypatch.setattr(doctor_module.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=2**29))
    monkeypatch.setattr(doctor_module.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2**30))
    memory, disk = doctor_module.check_memory_and_disk()
    assert (memory.level, disk.level) == ("warn", "warn")
    assert memory.text.startswith("0.5 GiB free")


def test_state_folder_that_can_not_be_made_is_a_failure(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMAPI_KIT_HOME", str(tmp_path / "file" / "below"))
    check = only(doctor_module.check_state_folder())
    assert check.level == "fail"
    assert "LLMAPI_KIT_HOME" in str(check)


def test_port_held_by_another_program_is_a_warning_that_names_it():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        check = doctor_module.port_state(holder.getsockname()[1])
    assert check.level == "warn"
    assert "in use" in check.text


def test_port_held_by_the_kit_says_how_to_use_it():
    server = kit.launch(MockEngine(), port=0)
    try:
        check = doctor_module.port_state(server.port)
        assert check.level == "ok"
        assert "kit.connect" in check.advice
        assert server.url in only(doctor_module.check_servers()).text
    finally:
        kit.stop_all()
    assert doctor_module.port_state(server.port).text == "is free"


def test_incomplete_pocket_model_is_a_failure(monkeypatch, tmp_path):
    (tmp_path / "config.json").touch()
    monkeypatch.setattr(doctor_module, "POCKET_DIR", tmp_path)
    check = only(doctor_module.check_pocket_model())
    assert check.level == "fail"
    assert "model.safetensors" in check.text


def test_tunnel_token_is_found_and_not_shown(monkeypatch):
    monkeypatch.setenv("NGROK_AUTHTOKEN", "canary-of-a-token")
    report = kit.doctor()
    assert "ngrok token: found" in str(report)
    assert "canary" not in str(report) + report._repr_html_()


def test_tunnel_rules_of_the_host_are_said(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert [check.level for check in doctor_module.check_tunnel()][-1] == "warn"


def test_colab_is_warned_about_upgrades(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    assert "torch" in only(doctor_module.check_host()).text


def test_a_pocket_model_that_can_not_be_loaded_is_a_warning_with_what_to_do(monkeypatch):
    """The doctor said "Ready." where torch was missing, and the next notebook failed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    check = only(doctor_module.check_pocket_model())
    assert check.level == "warn"
    assert 'pip install "llmapi-kit[torch]"' in check.advice
    assert Report((check,)).verdict == "Ready, but for 1 warning: Pocket model."


def test_the_default_port_in_use_is_no_problem_and_says_what_launch_does(monkeypatch):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        monkeypatch.setattr(doctor_module, "DEFAULT_PORT", holder.getsockname()[1])
        check = only(doctor_module.check_port())
    assert (check.level, check.advice) == ("ok", "kit.launch() takes the next one that is free.")


def test_a_hub_that_is_switched_off_is_a_warning_and_a_mirror_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert only(doctor_module.check_hub()).level == "warn"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setenv("HF_TOKEN", "canary-of-a-token")
    check = only(doctor_module.check_hub())
    assert check.text.startswith("through https://mirror.example, a token is there")
    assert "canary" not in str(check)


def test_a_gpu_that_torch_does_not_see_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor_module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(environment, "see_gpus", lambda: ())
    fake = types.SimpleNamespace(__version__="2.9", version=types.SimpleNamespace(cuda="13.0"))
    monkeypatch.setitem(sys.modules, "torch", fake)
    check = only(doctor_module.check_cuda())
    assert check.level == "warn"
    assert "torch 2.9 is built for CUDA 13.0" in check.text
    fake.version.cuda = None
    assert "built for CPUs only" in only(doctor_module.check_cuda()).text


def test_a_missing_compiler_is_a_warning_where_it_matters(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(environment, "see_gpus", lambda: ())
    monkeypatch.setattr(doctor_module.shutil, "which", lambda name: None)
    check = only(doctor_module.check_compiler())
    assert check.level == "warn"
    assert "slower" in check.text
    monkeypatch.setattr(doctor_module.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert only(doctor_module.check_compiler()).text == "/usr/bin/cc"
    monkeypatch.setattr(environment, "see_gpus", lambda: (environment.Gpu("A Card", 1),))
    assert list(doctor_module.check_compiler()) == []


def test_missing_widgets_are_a_warning_in_a_notebook(monkeypatch):
    assert list(doctor_module.check_widgets()) == []
    monkeypatch.setattr(doctor_module, "is_jupyter_kernel", lambda: True)
    assert only(doctor_module.check_widgets()).level == "ok"
    monkeypatch.setattr(environment, "version_of", lambda name: None)
    assert "pip install ipywidgets anywidget" in only(doctor_module.check_widgets()).advice


def test_check_that_breaks_is_a_finding_and_not_the_end(monkeypatch):
    def check_the_weather():
        raise OSError("no window")

    monkeypatch.setattr(doctor_module, "CHECKS", (check_the_weather, doctor_module.check_python))
    report = kit.doctor()
    assert not report.ok
    assert str(report.checks[0]) == "fail  the weather: could not be checked: OSError: no window."
    assert report.checks[1].name == "Python"


@pytest.mark.parametrize(
    ("levels", "verdict", "ok"),
    [
        (["ok"], "Ready.", True),
        (["ok", "warn"], "Ready, but for 1 warning: x.", True),
        (["warn", "fail", "fail"], "2 problems to repair first. 1 warning.", False),
    ],
)
def test_verdict_counts(levels, verdict, ok):
    report = Report(tuple(Check(level, "x", "y") for level in levels))
    assert (report.verdict, report.ok) == (verdict, ok)


def test_html_of_a_report_is_escaped():
    html = Report((Check("fail", "<i>", "a & b", "<script>"),))._repr_html_()
    assert "&lt;i&gt;" in html
    assert "a &amp; b" in html
    assert "<script>" not in html
