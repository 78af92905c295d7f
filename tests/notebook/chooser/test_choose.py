"""`kit.choose`: what is listed, what is recommended, what clicks do, and what a choice is good for."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import constants

import llmapi_kit as kit
from llmapi_kit.checkpoints import fit, needs
from llmapi_kit.checkpoints.choice import Choice
from llmapi_kit.checkpoints.known_models import known_models
from llmapi_kit.config import Settings
from llmapi_kit.notebook.chooser import choose as choose_module
from llmapi_kit.notebook.chooser import machine as machine_module
from llmapi_kit.notebook.chooser import page, widget
from llmapi_kit.notebook.chooser.entries import all_entries, nearby, recommended
from llmapi_kit.notebook.chooser.machine import GIB, ChooserMachine, look_at_machine
from llmapi_kit.notebook.chooser.text import access, as_table
from llmapi_kit.notebook.chooser.widget import Chooser

CONFIG = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "dtype": "bfloat16"}


def make_machine(device, free_gib, disk_gib=500):
    return ChooserMachine(device, "A card", free_gib * GIB, 2 * free_gib * GIB, disk_gib * GIB, "/cache")


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """An empty cache, an empty folder, 24 GiB of memory, and bitsandbytes installed."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fit, "free_memory", lambda device: 24 * GIB)
    monkeypatch.setattr(needs, "_has_bitsandbytes", lambda: True)
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def make_folder(path, config=CONFIG):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(bytes(2000))
    return path


def cache(tmp_path, name, *, is_complete):
    root = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    if is_complete:
        folder = make_folder(root / "snapshots" / "abc")
        (folder / "tokenizer.json").write_text("{}")
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("abc")
    else:
        (root / "blobs" / "abc.incomplete").write_bytes(bytes(700))


def test_listed_are_the_kit_s_own_files_nearby_the_cache_and_the_table(place, tmp_path):
    make_folder(place / "models" / "mine")
    (place / "small.gguf").write_bytes(b"GGUF")
    make_folder(place / ".hidden")
    (place / "empty").mkdir()
    cache(tmp_path, "some/other", is_complete=True)
    names = [entry.name for entry in all_entries()]
    table = [model.name for model in known_models()]
    assert names == ["pocket", "./models/mine", "./small.gguf", "some/other", *table]


def test_what_is_in_the_cache_is_told_whole_or_in_part(tmp_path):
    whole, part = known_models()[0].name, known_models()[1].name
    cache(tmp_path, whole, is_complete=True)
    cache(tmp_path, part, is_complete=False)
    found = {entry.name: entry for entry in all_entries()}
    assert (found[whole].is_complete, found[whole].missing_bytes) == (True, 0)
    assert (found[part].is_complete, found[part].here_bytes) == (False, 700)
    assert found[part].missing_bytes == found[part].size_bytes - 700


@pytest.mark.parametrize("text", ["", "[]", "{", '{"text_config": 5}', '{"hidden_size": "wide"}'])
def test_a_folder_whose_configuration_tells_nothing_is_listed_without_needs(place, text):
    make_folder(place / "odd").joinpath("config.json").write_text(text)
    (entry,) = nearby(place)
    assert (entry.name, entry.needs("float32", make_machine("cpu", 8), Settings())) == ("./odd", None)


@pytest.mark.parametrize(
    ("device", "free_gib", "disk_gib", "name"),
    [
        ("cpu", 16, 500, "Qwen/Qwen3-0.6B"),
        ("cpu", 1, 500, "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("cuda:0", 15, 500, "Qwen/Qwen3-4B-Instruct-2507"),
        ("cuda:0", 23, 500, "Qwen/Qwen3-8B"),
        ("cuda:0", 23, 10, "Qwen/Qwen3-4B-Instruct-2507"),
        ("cuda:0", 80, 500, "Qwen/Qwen3-14B"),
    ],
)
def test_recommended_is_the_best_that_fits_into_memory_and_disk(monkeypatch, device, free_gib, disk_gib, name):
    monkeypatch.setattr(fit, "free_memory", lambda device: free_gib * GIB)
    found = recommended(all_entries(), make_machine(device, free_gib, disk_gib), Settings())
    assert found is not None
    assert found[0].name == name


def test_nothing_is_recommended_where_nothing_fits(monkeypatch):
    monkeypatch.setattr(fit, "free_memory", lambda device: GIB // 4)
    assert recommended(all_entries(), make_machine("cpu", 0), Settings()) is None


def test_in_a_plain_program_it_prints_the_table_and_returns_what_is_recommended(capsys):
    choice = kit.choose()
    printed = capsys.readouterr().out
    assert choice.name == "Qwen/Qwen3-0.6B"
    assert f"Recommended here: {choice.name}\n    {choice.code}" in printed
    for model in known_models():
        assert model.name in printed
    assert "reviewed on" in printed


def test_every_row_of_the_table_has_every_column():
    lines = as_table(all_entries(), make_machine("cuda:0", 24), Settings()).splitlines()
    assert len(lines) == len(all_entries()) + 2
    assert all("GiB" in line for line in lines[2:])


def test_what_nobody_verified_of_a_licence_has_a_question_mark():
    by_name = {entry.name: entry for entry in all_entries()}
    checked, other = by_name["microsoft/Phi-4-mini-instruct"], by_name["Qwen/Qwen3-14B"]
    assert (access(checked), access(other)) == ("MIT", "Apache-2.0?")
    assert "not verified" in page.detail(other, make_machine("cpu", 24), Settings())
    assert "not verified" not in page.detail(checked, make_machine("cpu", 24), Settings())


def test_torch_is_asked_only_where_there_may_be_a_gpu(monkeypatch):
    asked = []
    monkeypatch.setattr(machine_module, "see_gpus", lambda: asked.append("torch") or ())
    monkeypatch.setattr(machine_module, "free_memory", lambda device: GIB)
    for may in (False, True):
        monkeypatch.setattr(machine_module, "may_have_gpu", lambda may=may: may)
        assert look_at_machine().device == "cpu"
    assert asked == ["torch"]


@pytest.mark.parametrize(
    ("choice", "code"),
    [
        (Choice("pocket"), 'model = kit.load("pocket")'),
        (Choice("a/b", {"quantize": "8bit"}), 'model = kit.load("a/b", quantize="8bit")'),
        (Choice('./it\'s "mine"'), 'model = kit.load("./it\'s \\"mine\\"")'),
    ],
)
def test_the_code_line_is_python_that_loads_the_choice(choice, code):
    assert choice.code == code
    compile(code, "cell", "exec")


def test_a_choice_stands_for_its_name_and_options_in_load_and_launch():
    choice = Choice("mock", {"max_slots": 3})
    model = kit.load(choice)
    assert model.name == "mock"
    assert kit.load("mock", max_slots=3) is model
    server = kit.launch(choice, port=0)
    assert server.models == ["mock"]
    kit.stop_all()


@pytest.fixture
def chooser():
    """A chooser on a card of 24 GB."""
    machine, entries = make_machine("cuda:0", 24), all_entries()
    found = recommended(entries, machine, Settings())
    return Chooser(Choice(found[0].name), entries, machine, Settings(), found)


def listed(chooser):
    return [name for _, name in chooser._list.options]


def test_the_list_follows_the_search_and_the_choice_follows_the_clicks(chooser):
    chooser._search.value = "qwen3 apache"
    assert listed(chooser) == [model.name for model in known_models() if model.name.startswith("Qwen/Qwen3")]
    chooser._list.value = "Qwen/Qwen3-8B"
    assert (chooser.choice.name, chooser.choice.options) == ("Qwen/Qwen3-8B", {})
    chooser._format.value = "8bit"
    assert chooser.choice.options == {"quantize": "8bit"}
    assert "quantize=&quot;8bit&quot;" in chooser._code.value


def test_a_model_that_fits_in_8_bits_only_is_chosen_so(chooser):
    chooser._list.value = "Qwen/Qwen3-14B"
    assert chooser.choice.options == {"quantize": "8bit"}


def test_what_fits_a_cpu_in_integers_only_is_chosen_so():
    entries = all_entries()
    chooser = Chooser(Choice("pocket"), entries, make_machine("cpu", 6), Settings(), None)
    chooser._list.value = "Qwen/Qwen2.5-1.5B-Instruct"
    assert "int4" in dict(chooser._format.options).values()
    chooser._format.value = "int4"
    assert chooser.choice.options == {"quantize": "int4"}
    assert "int4" in as_table(entries, make_machine("cpu", 6), Settings()).splitlines()[0]


def test_only_what_may_be_a_name_of_the_hub_can_be_asked_for(chooser):
    for text, may_ask in (("qwen", False), ("own/model", True), ("own/model please", False)):
        chooser._search.value = text
        assert chooser._ask.disabled is not may_ask
    assert listed(chooser) == []
    assert chooser._load.disabled


def test_loading_says_how_it_goes_and_hands_the_model_over(chooser):
    chooser._list.value = "pocket"
    chooser._load.click()
    chooser.wait(60)
    assert "is loaded" in chooser._status.value
    assert chooser.choice.model.name == "pocket"
    assert not chooser._load.disabled
    kit.stop_all()


@pytest.mark.parametrize("error", [kit.LlmApiKitError("<b>no</b>"), RuntimeError("<b>no</b>")])
def test_what_goes_wrong_is_shown_in_the_widget_as_text(chooser, monkeypatch, error):
    def fail(choice):
        raise error

    monkeypatch.setattr(widget.kit, "load", fail)
    chooser._load.click()
    chooser.wait(20)
    assert "&lt;b&gt;no&lt;/b&gt;" in chooser._status.value
    assert not chooser._load.disabled


def test_markup_in_names_stays_text(place):
    make_folder(place / "<img src=x>")
    (entry,) = nearby(place)
    assert "<img" not in page.detail(entry, make_machine("cpu", 8), Settings())


def test_in_a_kernel_the_widget_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(choose_module, "is_jupyter_kernel", lambda: True)
    monkeypatch.setattr(Chooser, "show", lambda self: shown.append(self))
    choice = kit.choose()
    assert shown[0].choice is choice
