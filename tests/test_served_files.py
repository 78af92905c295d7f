"""Adapters and GGUF files served from the command line, as the users of older servers start them."""

from __future__ import annotations

import json
import os
import re
import shutil

import httpx
import pytest
import torch
import transformers
from PIL import Image

from benchmarks.gguf_file import write_gguf
from llmapi_kit import kit
from llmapi_kit.checkpoints.spec import POCKET_DIR, parse_spec
from llmapi_kit.config import Settings
from llmapi_kit.errors import ConfigError, ModelLoadError
from llmapi_kit.images.attach import image_url
from llmapi_kit.loading.load_request import make_engine
from llmapi_kit.loading.model import Model
from tests.checkpoints.lora_files import ALL_LINEAR, pocket, save_adapter
from tests.checkpoints.seeing_gguf import SIDE, make_pair
from tests.warm_python import COMMAND_LINE

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of France?"


@pytest.fixture
def serve(warm_torch):
    """Starts `llmapi-kit serve`; returns a client with its key."""
    processes, clients = [], []

    def start(*arguments, **environ):
        reading, writing = os.pipe()
        with open(reading) as output:
            with open(writing, "w"):
                command = (COMMAND_LINE, "serve", *arguments, "--port", "0")
                processes.append(warm_torch.start(*command, stdout=writing, stderr=writing, **environ))
            shown = ""
            for line in output:
                shown += line
                if "until Ctrl-C" in line:
                    break
        url = re.search(r"http://127\.0\.0\.1:\d+", shown)
        assert url is not None, shown
        with open(re.search(r"key in +(\S+)", shown).group(1)) as file:
            headers = {"Authorization": f"Bearer {file.read().strip()}"}
        clients.append(httpx.Client(base_url=url.group(), headers=headers, trust_env=False, timeout=60))
        return clients[0]

    yield start
    for client in clients:
        client.close()
    for process in processes:
        process.kill()
        process.wait()


def ask(client, **fields):
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 24, **fields}
    return client.post("/v1/chat/completions", json=body).raise_for_status().json()


def test_the_demos_command_line_serves_the_adapter_under_the_folders_name(serve, tmp_path):
    folder = shutil.copytree(POCKET_DIR, tmp_path / "alpaca-7b")
    lora = save_adapter(tmp_path / "lora", pocket(), target_modules=ALL_LINEAR)
    client = serve(
        "--base_model", str(folder), "--lora_model", str(lora), "--tokenizer_path", str(folder), "--only_cpu"
    )
    answer = ask(client, temperature=0)
    model = Model(make_engine(parse_spec(str(folder)), Settings(), device="cpu", lora=str(lora)))
    try:
        assert answer["choices"][0]["message"]["content"] == model.ask(QUESTION, max_tokens=24, temperature=0)
    finally:
        model.close()
    assert answer["choices"][0]["message"]["content"] != "The capital of France is Paris."
    assert answer["model"] == "alpaca-7b"


@pytest.fixture
def gguf_file(tmp_path):
    """The pocket model as a GGUF file."""
    model = transformers.AutoModelForCausalLM.from_pretrained(POCKET_DIR, dtype=torch.float32)
    template = (POCKET_DIR / "chat_template.jinja").read_text()
    write_gguf(model, json.loads((POCKET_DIR / "tokenizer.json").read_text()), template, tmp_path / "m.gguf")
    return tmp_path / "m.gguf"


def test_the_environment_of_a_gguf_server_serves_its_model(serve, gguf_file):
    client = serve("--only-cpu", MODEL_TYPE="LLM", MODEL_PATH=str(gguf_file))
    answer = ask(client, temperature=0)
    assert answer["model"] == "default-model"
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    refused = client.get("/v1/models", headers={"Authorization": "Bearer wrong"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


def test_the_environment_of_a_gguf_server_serves_a_model_that_sees(serve, tmp_path):
    _, model, mmproj = make_pair(tmp_path)
    client = serve("--only-cpu", MODEL_TYPE="VL", MODEL_PATH=str(model), MMPROJ_PATH=str(mmproj))
    content = [
        {"type": "text", "text": "What is in this picture?"},
        {"type": "image_url", "image_url": {"url": image_url(Image.new("RGB", (SIDE, SIDE), (200, 30, 30)))}},
    ]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    whole = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    assert whole["model"] == "default-model"
    assert whole["usage"]["prompt_tokens_details"]["image_tokens"] == 16
    lines = client.post("/v1/chat/completions", json={**body, "stream": True}).raise_for_status().text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    streamed = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert streamed == whole["choices"][0]["message"]["content"] != ""


def test_several_models_are_served_with_aliases_and_a_default(serve, gguf_file):
    client = serve("mock", str(gguf_file), "--alias", "gpt-4o=m", "--default", "m")
    names = {model["id"] for model in client.get("/v1/models").raise_for_status().json()["data"]}
    assert names == {"mock", "m", "gpt-4o"}
    for model in ("gpt-4o", "m"):
        answer = ask(client, temperature=0, model=model)
        assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."


def test_an_answer_is_as_long_as_the_setting_says_where_the_request_does_not():
    model = Model(make_engine(parse_spec("pocket"), Settings(default_max_tokens=3, context_length=256), device="cpu"))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(POCKET_DIR)
        assert len(tokenizer.encode(model.ask(QUESTION))) == 3
        assert model.ask(QUESTION, max_tokens=40) == "The capital of France is Paris."
    finally:
        model.close()


def test_a_default_longer_than_the_room_left_is_no_mistake_of_the_request():
    model = Model(
        make_engine(parse_spec("pocket"), Settings(default_max_tokens=2048, context_length=256), device="cpu")
    )
    try:
        assert model.ask(QUESTION) == "The capital of France is Paris."
        model.ask(QUESTION, ignore_eos=True)  # to the end of the context
        assert model.stats().num_failed == 0
    finally:
        model.close()


def test_a_file_that_does_not_load_leaves_the_old_model_serving(gguf_file):
    server = kit.launch("mock", port=0)
    try:
        gguf_file.write_bytes(gguf_file.read_bytes()[:-1000])
        with pytest.raises(ModelLoadError, match=r"m\.gguf is damaged"):
            kit.launch(str(gguf_file), port=0)
        with server.client() as client:
            assert client.models.list().data[0].id == "mock"
    finally:
        kit.stop_all()


def test_sampling_for_requests_that_say_nothing_is_the_engines_default():
    model = Model(make_engine(parse_spec("pocket"), Settings(), device="cpu", sampling={"temperature": 0.7}))
    try:
        assert model.info.defaults == {"temperature": 0.7}
    finally:
        model.close()
    with pytest.raises(ConfigError, match="temperature is 9"):
        make_engine(parse_spec("pocket"), Settings(), sampling={"temperature": 9})
    with pytest.raises(ConfigError, match="heat"):
        make_engine(parse_spec("pocket"), Settings(), sampling={"heat": 1})
