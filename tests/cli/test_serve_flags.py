"""What ``llmapi-kit serve`` understands: our flags, an older demo's, and another server's environment."""

from __future__ import annotations

import pytest
import typer

from llmapi_kit.cli.app import app
from llmapi_kit.cli.model_environment import environment_model
from llmapi_kit.cli.serve_flags import ServeFlags, read_flags
from llmapi_kit.errors import ConfigError
from llmapi_kit.loading.gguf_options import OPTIONS
from tests.warm_python import COMMAND_LINE

pytestmark = pytest.mark.slow


def understood(environ=None, **flags):
    return read_flags(ServeFlags(**flags), environ or {})


def test_nothing_said_is_the_pocket_model():
    options = understood()
    assert (options.models, options.load, options.launch) == (["pocket"], {}, {})


def test_flags_become_arguments_of_load_and_launch():
    options = understood(
        models=["./m"],
        lora=["./lora"],
        tokenizer="./words",
        device="cuda",
        dtype="bfloat16",
        quantize="8bit",
        name="mine",
        aliases=["gpt-4o=mine", "a=b=c"],
        default="mine",
        max_slots=3,
        context_length=100,
        draft="owner/small",
        draft_tokens=4,
    )
    assert options.models == ["./m"]
    assert options.load == {
        "device": "cuda",
        "dtype": "bfloat16",
        "lora": "./lora",
        "tokenizer": "./words",
        "quantize": "8bit",
        "served_name": "mine",
        "max_slots": 3,
        "context_length": 100,
        "draft": "owner/small",
        "draft_tokens": 4,
    }
    assert options.launch == {"aliases": {"gpt-4o": "mine", "a": "b=c"}, "default": "mine"}


GGUF_FLAGS = {
    "n_gpu_layers": (["--n-gpu-layers", "3"], 3),
    "kv_cache_dtype": (["--kv-cache-dtype", "q8_0"], "q8_0"),
    "flash_attn": (["--no-flash-attn"], False),
    "use_mmap": (["--no-mmap"], False),
    "use_mlock": (["--mlock"], True),
    "rope_scaling": (["--rope-scaling", "yarn"], "yarn"),
    "rope_freq_base": (["--rope-freq-base", "1e6"], 1e6),
    "rope_freq_scale": (["--rope-freq-scale", "0.5"], 0.5),
    "isolate": (["--isolate"], True),
    "mmproj": (["--mmproj", "p.gguf"], "p.gguf"),
    "num_threads": (["--threads", "2"], 2),
    "context_length": (["--ctx-size", "512"], 512),
}


def test_every_option_of_a_gguf_file_has_a_flag(monkeypatch):
    read = []

    def stop(flags):
        read.append(flags)
        raise typer.Exit

    monkeypatch.setattr("llmapi_kit.cli.serve_flags.read_flags", stop)

    def given(*flags):
        app(["serve", "m.gguf", *flags], standalone_mode=False)
        return read_flags(read[-1], {}).load

    assert given() == {}
    for option, (flags, value) in GGUF_FLAGS.items():
        assert given(*flags) == {option: value}
    assert set(GGUF_FLAGS) >= set(OPTIONS) - {"device", "lora", "sampling"}


def test_the_demos_flags_mean_the_same():
    options = understood(base_model="./m", lora=["./lora"], tokenizer="./words", gpus="0", load_in_8bit=True)
    assert options.models == ["./m"]
    assert options.load == {"device": "cuda:0", "lora": "./lora", "tokenizer": "./words", "quantize": "8bit"}
    assert understood(base_model="./m", only_cpu=True).load == {"device": "cpu"}
    assert understood(models=["m/n"], gpus="1").load == {"device": "cuda:1"}
    assert understood(models=["m/n"], gpus="0, 1").load == {"devices": ["cuda:0", "cuda:1"]}
    divided = understood(models=["m/n"], gpus="2,3", tensor_parallel=2).load
    assert divided == {"devices": ["cuda:2", "cuda:3"], "tensor_parallel": 2}
    assert understood(models=["m/n"], only_cpu=True, device="cpu").load == {"device": "cpu"}
    assert understood(models=["m/n"], load_in_8bit=True, quantize="8bit").load == {"quantize": "8bit"}


def test_adapters_with_names_are_served_beside_the_model_and_one_without_is_merged(tmp_path):
    assert understood(lora=["a=./a", "b=owner/b"]).load["lora"] == {"a": "./a", "b": "owner/b"}
    assert understood(lora=["owner/b"]).load["lora"] == "owner/b"
    odd = tmp_path / "r=8"
    odd.mkdir()
    assert understood(lora=[str(odd)]).load["lora"] == str(odd)
    assert understood(lora=[f"x={odd}"]).load["lora"] == {"x": str(odd)}


CONFLICTS = {
    "two names": ({"models": ["a"], "base_model": "b"}, "--base_model b and 'a'"),
    "a name twice": ({"models": ["a", "a"]}, "twice"),
    "a GPU that is no number": ({"gpus": "all"}, "--gpus is 'all'"),
    "no GPU": ({"gpus": ""}, "--gpus is ''"),
    "a GPU below 0": ({"gpus": "-1"}, "--gpus is '-1'"),
    "GPU and no GPU": ({"gpus": "0", "only_cpu": True}, "--gpus and --only_cpu"),
    "two places": ({"gpus": "0", "device": "cuda:0"}, "--device and --gpus"),
    "CPU and GPU": ({"device": "cuda", "only_cpu": True}, "--device and --only_cpu"),
    "8 bits without a GPU": ({"load_in_8bit": True, "only_cpu": True}, "--load_in_8bit needs a GPU"),
    "8 bits and others": ({"load_in_8bit": True, "quantize": "4bit"}, "--load_in_8bit and --quantize 4bit"),
    "adapters without names": ({"lora": ["./a", "b=./b"]}, "each must be name=path"),
    "two adapters of one name": ({"lora": ["a=./a", "a=./a"]}, "names an adapter twice"),
    "an adapter for two": ({"models": ["a", "b"], "lora": ["c"]}, "--lora goes with one model"),
    "a tokenizer for two": ({"models": ["a", "b"], "tokenizer": "c"}, "--tokenizer goes with one"),
    "8 bits for two": ({"models": ["a", "b"], "load_in_8bit": True}, "--quantize goes with one"),
    "one name for two": ({"models": ["a", "b"], "name": "c"}, "--name goes with one model"),
    "an alias for nothing": ({"aliases": ["gpt-4o="]}, "--alias is 'gpt-4o='"),
    "an alias without a name": ({"aliases": ["=pocket"]}, "--alias is '=pocket'"),
    "a subfolder of two": ({"models": ["a", "b"], "subfolder": "c"}, "--subfolder goes with one model"),
    "code from a command line": ({"trust_remote_code": True}, "--trust-remote-code is not taken.*in Python"),
    "an alias of two": ({"aliases": ["a=b", "a=c"]}, "--alias names 'a' twice"),
}


@pytest.mark.parametrize("case", sorted(CONFLICTS))
def test_flags_that_contradict_each_other_are_refused_by_name(case):
    flags, match = CONFLICTS[case]
    with pytest.raises(ConfigError, match=match):
        understood(**flags)


def test_the_environment_names_model_and_name_with_that_servers_defaults():
    found = environment_model({"MODEL_TYPE": "LLM", "MODEL_PATH": "/m/x.gguf", "MODEL_NAME": "mine"})
    assert (found.path, found.served_name) == ("/m/x.gguf", "mine")
    assert found.options == {"sampling": {"temperature": 0.7}, "default_max_tokens": 2048}
    assert environment_model({"MODEL_PATH": "/m/x.gguf"}).served_name == "default-model"
    assert environment_model({"MODEL_PATH": "/m", "MODEL_TYPE": "llm", "MODEL_NAME": ""}).served_name == "default-model"


def test_the_environment_names_the_file_for_pictures():
    found = environment_model({"MODEL_TYPE": "VL", "MODEL_PATH": "/m.gguf", "MMPROJ_PATH": "/p.gguf"})
    assert found.options["mmproj"] == "/p.gguf"
    assert understood(models=["/m.gguf"], gguf={"mmproj": "/other.gguf"}).load["mmproj"] == "/other.gguf"


def test_our_own_variable_goes_before_that_servers_default():
    found = environment_model({"MODEL_PATH": "/m", "LLMAPI_KIT_DEFAULT_MAX_TOKENS": "5"})
    assert "default_max_tokens" not in found.options


@pytest.mark.parametrize("environ", [{}, {"MODEL_NAME": "x"}, {"MODEL_PATH": "", "MODEL_TYPE": ""}])
def test_an_environment_without_a_path_selects_nothing(environ):
    assert environment_model(environ) is None


@pytest.mark.parametrize(
    ("environ", "error", "match"),
    [
        ({"MODEL_TYPE": "VL", "MODEL_PATH": "/m"}, ConfigError, "MMPROJ_PATH is not set"),
        ({"MODEL_TYPE": "VL", "MMPROJ_PATH": "/p"}, ConfigError, "MODEL_PATH is not"),
        ({"MODEL_PATH": "/m", "MMPROJ_PATH": "/p"}, ConfigError, "MODEL_TYPE is not VL"),
        ({"MODEL_TYPE": "GPT", "MODEL_PATH": "/m"}, ConfigError, "'GPT'.*LLM or VL"),
        ({"MODEL_TYPE": "LLM"}, ConfigError, "MODEL_PATH"),
    ],
)
def test_an_environment_that_can_not_be_followed_is_refused_by_name(environ, error, match):
    with pytest.raises(error, match=match):
        environment_model(environ)


def test_the_environment_is_read_only_where_no_model_is_named():
    environ = {"MODEL_PATH": "/m/x.gguf", "MODEL_TYPE": "nonsense"}
    assert understood(environ, models=["mock"]).models == ["mock"]
    assert understood(environ, base_model="mock").load == {}
    with pytest.raises(ConfigError, match="nonsense"):
        understood(environ)


def test_flags_go_before_the_environment():
    environ = {"MODEL_PATH": "/m/x.gguf", "MODEL_NAME": "theirs"}
    options = understood(environ, name="ours", context_length=512, only_cpu=True)
    assert options.models == ["/m/x.gguf"]
    assert options.load["served_name"] == "ours"
    assert (options.load["context_length"], options.load["device"]) == (512, "cpu")
    assert options.load["sampling"] == {"temperature": 0.7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base_model", "mock", "--gpus=all"], "--gpus is 'all'"),
        (["--only_cpu", "--load_in_8bit"], "--load_in_8bit needs a GPU"),
        (["mock", "--lora_model", "./x"], "'lora'"),
        (["mock", "--default", "nothing"], "nothing"),
    ],
)
def test_underscores_are_understood_and_mistakes_are_one_line(warm_python, arguments, message):
    done = warm_python.run(COMMAND_LINE, "serve", "--port", "0", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_flag_of_the_demo(warm_python):
    done = warm_python.run(COMMAND_LINE, "serve", "--help", COLUMNS="120")
    assert done.returncode == 0
    for flag in ("--base-model", "--lora-model", "--tokenizer-path", "--gpus", "--load-in-8bit", "--only-cpu"):
        assert flag in done.stdout


KEY = "a-key-of-this-team"


def test_no_key_is_taken_from_the_command_line_and_the_message_says_what_to_do():
    with pytest.raises(ConfigError, match=r"LLMAPI_KIT_API_KEY in the environment, .* --api-key-file FILE") as caught:
        understood(api_key=KEY)
    assert KEY not in str(caught.value)
    assert KEY not in repr(ServeFlags(api_key=KEY))


@pytest.mark.parametrize("content", [KEY, f"{KEY}\n", f"{KEY}\r\n", f"\ufeff{KEY}\n\n"])
def test_a_file_holds_the_key_and_line_ends_are_not_part_of_it(tmp_path, caplog, content):
    file = tmp_path / "key"
    file.write_bytes(content.encode())
    file.chmod(0o640)
    options = understood({"LLMAPI_KIT_API_KEY": "of-the-environment"}, api_key_file=file)
    assert options.api_key == KEY
    assert KEY not in repr(options)
    assert not caplog.records


def test_the_environment_may_have_the_key():
    assert understood({"LLMAPI_KIT_API_KEY": KEY}).api_key == KEY
    assert understood({"LLMAPI_KIT_API_KEY": ""}).api_key is None


def test_a_key_file_that_everybody_can_read_is_warned_of(tmp_path, caplog):
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(0o644)
    assert understood(api_key_file=file).api_key == KEY
    assert f"chmod 600 {file}" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "can't be read: No such file"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"one\ntwo\n", "has several lines"),
        (b"\xff\xfe", "is not text"),
        (b"x" * 5000, "more than 4096 bytes"),
    ],
)
def test_a_key_file_that_holds_no_key_is_refused(tmp_path, content, problem):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        understood(api_key_file=file)
    assert str(file) in str(caught.value)
    with pytest.raises(ConfigError, match="can't be read"):
        understood(api_key_file=tmp_path)
