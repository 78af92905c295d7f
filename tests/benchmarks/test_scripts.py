"""Each script runs from end to end; nothing is said of how fast. No peer is installed."""

from __future__ import annotations

import itertools
import json
import re
import runpy
import subprocess
import sys
import types

import psutil
import pytest

import benchmarks
from benchmarks import adapters, conversation, draft, engine_process, gpu, long_context, overhead, processes, serving
from benchmarks.processes import ServerFailedError, ServerProcess, free_port
from benchmarks.serving_report import Failure, Run, Sample, to_markdown

pytestmark = pytest.mark.slow

MODULES = [
    "adapters",
    "bare_llama_decode",
    "bare_loop",
    "busy_kernel",
    "cluster",
    "cluster_simulation",
    "conversation",
    "draft",
    "embeddings",
    "engine_process",
    "environments",
    "fair_share",
    "families",
    "gpu",
    "load",
    "long_context",
    "models",
    "overhead",
    "quantized",
    "serving",
    "stream_server",
]


@pytest.fixture(autouse=True)
def _no_signal_handlers(monkeypatch):
    for module in (conversation, engine_process, overhead, serving):
        monkeypatch.setattr(module, "stop_on_sigterm", lambda: None)


@pytest.fixture
def _warm(warm_modules, monkeypatch):
    """Servers, and programs that the scripts wait for, begin warm; loads, which import little, do not."""
    stand_in = types.SimpleNamespace(**{**vars(subprocess), "Popen": warm_modules.popen, "run": warm_modules.run})
    for module in (processes, overhead, long_context):
        monkeypatch.setattr(module, "subprocess", stand_in)


def options(work, results):
    return ["--quick", "--repeats", "1", "--work", str(work), "--results", str(results)]


@pytest.mark.usefixtures("tiny", "_warm")
def test_serving_measures_this_server(work, tmp_path):
    chosen = ["--contenders", "llmapi_kit,llmapi_kit-gguf", "--streams", "1,2", "--workloads", "short,shared"]
    assert serving.main([*chosen, *options(work, tmp_path)]) == 0
    report = json.loads((tmp_path / "serving.json").read_text())
    assert [sample["result"]["num_tokens"] for sample in report["samples"]] == [8, 8, 16, 16] * 2
    assert report["peak_rss_bytes"]["tiny llmapi_kit"] > 0
    assert "| 2 | llmapi_kit |" in (tmp_path / "serving.md").read_text()
    assert (tmp_path / "serving.png").stat().st_size > 1000


@pytest.mark.usefixtures("tiny")
def test_adapters_are_measured_beside_none(work, tmp_path):
    assert adapters.main(["--streams", "3", "--num", "2", "--model", "tiny", *options(work, tmp_path)]) == 0
    report = json.loads((tmp_path / "adapters.json").read_text())
    samples = {(each["step"], each["who"]): len(each["tokens_per_s"]) for each in report["samples"]}
    assert samples == {(step, who): 1 for step in ("C", "torch") for who in ("none", "adapters")}
    assert "| torch | 3 |" in (tmp_path / "adapters.md").read_text()


@pytest.mark.usefixtures("tiny")
def test_guesses_are_measured_beside_none(work, tmp_path):
    assert draft.main(["--streams", "2", "--model", "tiny", *options(work, tmp_path)]) == 0
    report = json.loads((tmp_path / "draft.json").read_text())
    samples = [(each["text"], each["draft"]) for each in report["samples"]]
    lookups = [(text, way) for text in ("repetitive", "free") for way in (draft.OFF, draft.LOOKUP)]
    ways = (draft.OFF, draft.SMALLER, draft.ITSELF)
    assert samples == lookups + [(text, way) for text in ("greedy", "sampled") for way in ways]
    assert "| free | 2 |" in (tmp_path / "draft.md").read_text()


@pytest.mark.usefixtures("tiny", "_warm")
def test_a_long_prompt_is_measured_in_each_way(work, tmp_path):
    ways = ["C, in int8", "torch"]
    assert long_context.main(["--model", "tiny", "--ways", *ways, *options(work, tmp_path)]) == 0
    report = json.loads((tmp_path / "long_context.json").read_text())
    assert [each["way"] for each in report] == ways
    assert all(each["num_tokens"] > 200 and each["tokens_per_s"] > 0 for each in report)
    assert "| torch |" in (tmp_path / "long_context.md").read_text()


@pytest.mark.usefixtures("tiny", "_warm")
def test_overhead_measures_both_parts(work, tmp_path, monkeypatch):
    monkeypatch.setattr(overhead, "CONNECTIONS", (2,))
    assert overhead.main(["--streams", "1", *options(work, tmp_path)]) == 0
    report = json.loads((tmp_path / "overhead.json").read_text())
    assert {(each["who"], each["at_once"]) for each in report["chunks"]} == {
        ("mock", 2),
        ("fixed", 2),
    }
    assert all(each["per_s"][0] > 0 for rates in report["engine"].values() for each in rates)
    assert re.search(
        r"One stream reads .* GB/s of weights; all cores read memory at", (tmp_path / "overhead.md").read_text()
    )


@pytest.mark.usefixtures("tiny", "_warm")
def test_a_process_of_its_own_is_measured_beside_idle_and_busy_cells(work, tmp_path):
    cells, apart = ("busy", engine_process.ELSEWHERE), "in a process of its own"
    assert engine_process.main(["--streams", "2", "--cells", *cells, *options(work, tmp_path)]) == 0
    whose = {"tiny": ("in the kernel", apart), "timed": (apart,)}
    report = json.loads((tmp_path / "engine_process.json").read_text())
    assert {model: {(each["who"], each["cell"]) for each in samples} for model, samples in report.items()} == {
        model: set(itertools.product(kinds, cells)) for model, kinds in whose.items()
    }
    assert all(each["samples"][0]["num_tokens"] == 16 for samples in report.values() for each in samples)


@pytest.mark.usefixtures("tiny", "_warm")
def test_conversation_measures_each_turn(work, tmp_path):
    assert conversation.main(options(work, tmp_path)) == 0
    report = json.loads((tmp_path / "conversation.json").read_text())
    assert [len(runs[0]) for runs in report["ttft_s"].values()] == [3, 3]
    assert (tmp_path / "conversation.png").stat().st_size > 1000


def test_the_gpu_benchmark_says_so_where_there_is_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA card here"):
        gpu.main([])


def test_the_short_gpu_benchmark_compares_the_engine_with_a_bare_loop(monkeypatch, capsys):
    """On a CPU here, with a tiny shape; the last line is what `make gpu-check` reads."""
    monkeypatch.setenv("LLMAPI_KIT_GPU_CHECK_DEVICE", "cpu")
    monkeypatch.setattr(gpu, "COPIED_BYTES", 2**20)
    monkeypatch.setattr(gpu, "stop_on_sigterm", lambda: None)
    assert gpu.main(["--short", "--streams", "1,3"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["model"] == "tiny"
    assert [rate["streams"] for rate in report["rates"]] == [1, 3]
    for rate in report["rates"]:
        assert rate["engine_of_limit"] == pytest.approx(rate["engine"] / rate["limit"], rel=0.01)
        assert rate["engine_to_bare_loop"] == pytest.approx(rate["engine"] / rate["bare_loop"], rel=0.01)
    one, three = (rate["limit"] for rate in report["rates"])
    assert three == pytest.approx(3 * one, rel=0.01)


def test_the_gpu_report_shows_each_servers_part_of_what_memory_allows():
    rates = {("llmapi_kit", 1): [50, 60, 70], ("transformers-cb", 1): [30], ("llmapi_kit", 64): [1600]}
    lines = gpu.table(rates, [1, 64], bytes_per_s=1e12, weights_bytes=10**10)
    assert lines[2:] == ["| 1 | 100 | 60.0 | 0.60 | 30.0 | 0.30 |", "| 64 | 6,400 | 1,600 | 0.25 | - | - |"]


@pytest.mark.parametrize("module", MODULES)
def test_every_script_has_help(module, monkeypatch, capsys):
    """In this process, which has imported torch and more for all of them."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(f"{benchmarks.__path__[0]}/{module}.py", run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_server_that_fails_shows_its_log(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    server = ServerProcess(
        "broken",
        [sys.executable, "-c", "raise SystemExit('no such model')"],
        url=url,
        ready_path="/",
        log=tmp_path / "l",
    )
    with pytest.raises(ServerFailedError, match="no such model"), server:
        pass


def test_a_server_and_its_children_are_gone_afterwards(tmp_path):
    port = free_port()
    child = f"[sys.executable, '-m', 'http.server', '{port}', '--bind', '127.0.0.1']"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run({child})"]
    with ServerProcess("it", command, url=f"http://127.0.0.1:{port}", ready_path="/", log=tmp_path / "l") as server:
        family = psutil.Process(server._process.pid).children(recursive=True)
        assert family
        server.hold()  # also when it is held still
    _, alive = psutil.wait_procs(family, timeout=10)
    # Whoever adopts an orphan may leave it unreaped for a while; it runs no more
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_the_report_has_medians_ratios_and_failures():
    run = Run(
        {"cores": "2"}, "today", "bench", models={"tiny": "tiny (4 M)"}, peak_rss_bytes={"tiny llmapi_kit": 2**20}
    )
    for contender, rates in {"llmapi_kit": (90, 100, 500), "transformers": (20, 25, 30)}.items():
        for repeat, rate in enumerate(rates):
            times = dict.fromkeys(("ttft_p50_s", "ttft_p99_s", "gap_p50_s", "gap_p99_s"), 1 / rate)
            run.samples.append(Sample("tiny", contender, "short", 8, repeat, {"tokens_per_s": rate, **times}))
    run.failures.append(Failure("tiny", "llama.cpp", "start", "cannot open file"))
    text = to_markdown(run)
    assert "| 8 | llmapi_kit | 100 | 90.0 to 500 | 10.0 ms |" in text
    assert "| short | 8 | llmapi_kit | 4.00 (transformers) | 0.25 (transformers) |" in text
    assert "| 8 | llama.cpp | failed |" in text
    assert "cannot open file" in text
