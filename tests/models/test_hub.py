"""The look at the hub before a download, against a hub on this machine."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from llmapi_kit.errors import ModelLoadError, ModelNotFoundError, UnsupportedModelError
from llmapi_kit.models.hub import check_hub_model

GIB = 2**30


class Hub(BaseHTTPRequestHandler):
    """Answers like the hub's model API."""

    def do_GET(self):
        name = self.path.split("?")[0].removeprefix("/api/models/")
        status, headers, files = self.server.models.get(name, (401, {"X-Error-Code": "RepoNotFound"}, {}))
        siblings = [{"rfilename": file, "size": size} for file, size in files.items()]
        body = json.dumps({"id": name, "siblings": siblings}).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with a few models."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.models = {
        "good/small": (200, {}, {"config.json": 500, "model.safetensors": GIB}),
        "huge/model": (200, {}, {"model-1.safetensors": 10**15, "model-2.safetensors": 10**15}),
        "only/adapter": (200, {}, {"adapter_config.json": 500, "adapter_model.safetensors": 1000}),
        "only/pickle": (200, {}, {"pytorch_model.bin": 1000}),
        "gated/model": (403, {"X-Error-Code": "GatedRepo"}, {}),
        "broken/model": (500, {}, {}),
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "not yet there"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_that_fits_passes(hub):
    check_hub_model("good/small", 4 * GIB)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("nobody/nothing", ModelNotFoundError, "no model 'nobody/nothing'.*HF_TOKEN"),
        ("gated/model", ModelNotFoundError, "accept its terms"),
        ("broken/model", ModelNotFoundError, "can't be reached"),
        ("only/adapter", UnsupportedModelError, "lora='only/adapter'"),
        ("only/pickle", UnsupportedModelError, "pickle"),
        ("huge/model", ModelLoadError, "1,862,645.* GiB.*disk"),
    ],
)
def test_what_stands_in_the_way_is_said_before_a_download(hub, name, kind, message):
    with pytest.raises(kind, match=message):
        check_hub_model(name, 4 * GIB)


def test_too_little_memory_is_said_with_the_numbers(hub):
    with pytest.raises(ModelLoadError, match=r"1\.0 GiB of weights, and 0\.5 GiB"):
        check_hub_model("good/small", GIB // 2)


def test_no_network_is_said_at_once(hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ModelNotFoundError, match="Check the network"):
        check_hub_model("good/small", 4 * GIB)


def test_offline_mode_is_said(monkeypatch):
    with pytest.raises(ModelNotFoundError, match="can't be reached"):
        check_hub_model("good/small", 4 * GIB)
