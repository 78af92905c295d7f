"""The script behind `make gpu-check`: parts that hang, crash and fail, its report, and what it says without a GPU."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from pathlib import Path

import psutil
import pytest
import tomllib

from tools import gpu_check, other_pythons
from tools.gpu_check import Part, Report, Result, main, run_part

ROOT = Path(__file__).parents[2]
PASSES = "print('some line'); print('{\"passed\": 3}')"
CARD = {"torch": "2.13.0", "cuda": "13.0", "device": "A Card", "capability": [9, 0]}


def part(name, code, limit_s=60.0, **options):
    return Part(name, [sys.executable, "-c", code], limit_s, **options)


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """Runs `main` on parts of a test's own, on a device that is there; gives its status and what it wrote."""

    def run(*parts, device=CARD, arguments=()):
        def probe(report):
            report.device = device

        monkeypatch.setattr(gpu_check, "parts", lambda: list(parts))
        monkeypatch.setattr(gpu_check, "probe", probe)
        status = main([*arguments, "--output", str(tmp_path / "out.json")])
        return status, json.loads((tmp_path / "out.json").read_text())

    return run


@pytest.mark.slow
def test_parts_that_hang_crash_or_fail_stop_no_other(checked, capsys):
    status, written = checked(
        part("hangs", "print('began', flush=True); import time; time.sleep(600)", 3),
        part("crashes", "import os; os.abort()"),
        part("fails", "raise SystemExit('no such kernel')"),
        part("silent", "pass"),
        part("works", PASSES),
    )
    assert status == 1
    assert not written["passed"]
    assert [(each["name"], each["status"]) for each in written["parts"]] == [
        ("hangs", "timed out"), ("crashes", "crashed"), ("fails", "failed"), ("silent", "failed"), ("works", "passed")
    ]  # fmt: skip
    assert written["parts"][0]["error"] == ["began"]
    assert written["parts"][2]["error"] == ["no such kernel"]
    assert written["parts"][3]["error"] == ["It printed no figures."]
    shown = capsys.readouterr().out
    assert re.search(r"^hangs +timed out", shown, re.MULTILINE)
    assert "no such kernel" in shown
    assert "NOT passed" in shown


def test_the_report_has_versions_device_figures_and_durations(checked, capsys):
    status, written = checked(part("works", PASSES, 50))
    assert (status, written["passed"]) == (0, True)
    assert written["device"] == CARD
    assert set(written["versions"]) >= {"Python", "torch", "transformers"}
    (works,) = written["parts"]
    assert works["figures"] == {"passed": 3}
    assert works["error"] == []
    assert works["limit_s"] == 50
    assert 0 <= works["duration_s"] <= written["duration_s"]
    assert "Passed." in capsys.readouterr().out


@pytest.mark.slow
def test_children_of_a_part_end_with_it():
    child = "import time; time.sleep(600)"
    code = f"import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True)"
    for wait, status in (("; time.sleep(600)", "timed out"), ("; raise SystemExit(1)", "failed")):
        result = run_part(part("parent", code + wait), 5)
        assert result.status == status
        with contextlib.suppress(psutil.NoSuchProcess):
            _, alive = psutil.wait_procs([psutil.Process(int(result.error[0]))], timeout=10)
            # Whoever adopts an orphan may leave it unreaped for a while; it runs no more
            assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_a_part_that_can_not_run_here_is_no_part_that_passed(checked):
    status, written = checked(
        part("works", PASSES), part("lacks", PASSES, packages=["no-such-package"]), part("late", PASSES, 0)
    )
    assert status == 1
    assert [each["status"] for each in written["parts"]] == ["passed", "not run", "not run"]
    assert "no-such-package" in written["parts"][1]["error"][0]
    assert "--without lacks" in written["parts"][1]["error"][0]
    status, written = checked(part("8-bit", PASSES, is_cuda_only=True), device={"device": "cpu"})
    assert (status, written["parts"][0]["status"]) == (1, "not run")


def test_what_is_left_out_on_purpose_is_named_and_nothing_at_all_has_not_passed(checked):
    parts = part("works", PASSES), part("fails", "raise SystemExit(1)")
    status, written = checked(*parts, arguments=["--without", "fails"])
    assert (status, written["left_out"]) == (0, ["fails"])
    status, written = checked(*parts, arguments=["--without", "fails", "--without", "works"])
    assert (status, written["passed"]) == (1, False)


def test_no_part_begins_when_the_time_for_all_is_used_up(tmp_path):
    report = Report()
    gpu_check.run_all([part("late", PASSES)], report, tmp_path / "out.json", time.monotonic() - 100, total_s=99)
    assert [each.status for each in report.parts] == ["not run"]
    assert json.loads((tmp_path / "out.json").read_text())["parts"][0]["name"] == "late"


def test_all_parts_together_take_less_than_7_minutes_and_name_modules_that_are_there():
    limits = [each.limit_s for each in gpu_check.parts()]
    assert sum(limits) <= gpu_check.TOTAL_S < 7 * 60
    paths = [word for each in gpu_check.parts() for word in each.command if word.endswith(".py")]
    assert {ROOT / path for path in paths} == set((ROOT / "tests/gpu").glob("test_*.py"))


@pytest.mark.slow
def test_without_a_gpu_it_says_so_and_nothing_passes(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["--output", str(tmp_path / "out.json")]) == 2
    assert "There is no GPU that torch sees here (torch " in capsys.readouterr().err
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["passed"], written["parts"]) == (False, [])
    assert written["reason"].startswith("There is no GPU")


def test_a_torch_that_can_not_be_asked_is_named(monkeypatch, tmp_path, capsys):
    broken = Result("device", "crashed", error=["undefined symbol: cuInit"])
    monkeypatch.setattr(gpu_check, "run_part", lambda *args: broken)
    assert main(["--output", str(tmp_path / "out.json")]) == 2
    assert "undefined symbol: cuInit" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_way_to_install_them(monkeypatch, tmp_path, capsys):
    installed = gpu_check._version
    monkeypatch.setattr(gpu_check, "_version", lambda name: None if name == "transformers" else installed(name))
    assert main(["--output", str(tmp_path / "out.json")]) == 2
    shown = capsys.readouterr().err
    assert f"Not installed in {sys.executable}: transformers.\n" in shown
    assert "tools/gpu_check.py --install" in shown


def test_installing_keeps_the_torch_that_is_there(monkeypatch, tmp_path):
    asked = []

    def run(part, limit_s):
        constraints = Path(part.command[part.command.index("-c") + 1])
        asked.append((part.command, constraints.read_text()))
        return Result("install", "failed", error=["no space left"])

    monkeypatch.setattr(gpu_check, "run_part", run)
    monkeypatch.setattr(gpu_check, "_version", lambda name: "2.9.0+cu128")
    assert main(["--install", "--output", str(tmp_path / "out.json")]) == 2
    ((command, constraints),) = asked
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert constraints == "torch==2.9.0+cu128\n"
    assert "no space left" in json.loads((tmp_path / "out.json").read_text())["reason"]


def test_what_it_needs_is_read_from_pyproject_as_it_stands_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["torch"], *extras["testing"]]
    assert gpu_check.requirements() == [re.match(r"[\w.-]+", each).group() for each in wanted] + ["pytest-timeout"]


@pytest.mark.slow
def test_tests_that_need_a_gpu_are_left_out_unless_asked_for():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    assert options[options.index("-m") + 1] == "not clients and not gpu and not cluster"
    modules = sorted((ROOT / "tests/gpu").glob("test_*.py"))
    assert all("pytest.mark.gpu" in module.read_text() for module in modules)
    assert not {str(module.relative_to(ROOT)) for module in modules} & set(other_pythons.kernel_modules())
