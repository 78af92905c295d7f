"""The notebooks run in real kernels: each twice in a row, with answers that make sense and no key left in them."""

from __future__ import annotations

import re

import pytest

from llmapi_kit.notebook.show import read_exchanges

from .kernels import NOTEBOOKS, cell_of, holds, html_of, keys_in, mimes_of, open_notebook, text_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


def exchanges(nb):
    return dict(pair for cell in nb.cells for pair in read_exchanges(cell.get("outputs", [])))


def check_client(nb):
    """Notebook 04 has done all that it promises."""
    answers = exchanges(nb)
    assert "Paris" in answers["What is the capital of France?"]
    assert "Tokyo" in answers["What is the capital of Japan?"]
    assert "server.stop()" in answers["How do I stop the server?"]
    assert len(answers["Tell me a story about a cat."]) > 80
    assert "Ada" in answers["What is my name?"]
    assert any("\u4e00" <= character <= "\u9fff" for character in answers["介绍一下你自己"])
    assert all("\ufffd" not in answer for answer in answers.values())
    errors = text_of(cell_of(nb, "errors"))
    assert "404" in errors
    assert "'gpt-17' is not served here" in errors
    assert "The field sparkle is not supported" in errors
    assert errors.count("400") == 2
    assert text_of(cell_of(nb, "wrong-key")).startswith("401")
    raw = text_of(cell_of(nb, "raw"))
    assert "text/event-stream" in raw
    assert "data: [DONE]" in raw
    assert "The same 8 answers" in text_of(cell_of(nb, "compare"))


def check_tools(nb):
    """Notebook 05 has called a function, and answers have the form that was asked for."""
    assert text_of(cell_of(nb, "call")).split(maxsplit=2) == ["tool_calls", "get_weather", '{"city": "Paris"}\n']
    (answer,) = read_exchanges(cell_of(nb, "result").outputs)
    assert "18 degrees" in answer[1]
    assert "→ get_weather" in text_of(cell_of(nb, "stream"))
    assert "Oslo" in text_of(cell_of(nb, "stream"))
    assert "'city':" in text_of(cell_of(nb, "forced"))
    assert exchanges(nb)["Give me a JSON object describing a person."].startswith("Person(name=")
    choice, clock = read_exchanges(cell_of(nb, "choice").outputs)
    assert choice[1] in ("yes", "no", "perhaps")
    assert re.fullmatch("[0-9]{2}:[0-9]{2}", clock[1])
    assert text_of(cell_of(nb, "impossible")).startswith("400, guided_json")


def test_setup_says_it_is_ready_and_load_model_streams_an_answer_and_measures_speed():
    """In one kernel, neither with the names of the other. The test of `make demo` runs each in a kernel of its own."""
    with open_notebook(NOTEBOOKS / "01_setup.ipynb") as notebook:
        for _ in range(2):
            nb = notebook.run()
            assert "is installed" in text_of(cell_of(nb, "install"))
            assert "Jupyter kernel" in html_of(cell_of(nb, "machine"))
            assert "Ready" in text_of(cell_of(nb, "doctor"))
            assert "Ready" in text_of(cell_of(nb, "verdict"))
        notebook.switch_to(NOTEBOOKS / "02_load_model.ipynb")
        for _ in range(2):
            nb = notebook.run()
            assert "pocket" in text_of(cell_of(nb, "needs"))
            assert "M parameters" in text_of(cell_of(nb, "load"))
            assert "llmapi_kit" in exchanges(nb)["What is llmapi_kit?"]
            assert text_of(cell_of(nb, "speed")).count("tokens/s") == 2


def test_client_in_another_kernel_finds_the_server_and_no_notebook_holds_the_key(home):
    with (
        open_notebook(NOTEBOOKS / "03_launch_server.ipynb", {"PORT": 0}) as launched,
        open_notebook(NOTEBOOKS / "04_test_client.ipynb") as client,
    ):
        urls = []
        for _ in range(2):
            nb = launched.run()
            assert "it was running" in html_of(cell_of(nb, "launch"))
            assert "llmapi_kit" in exchanges(nb)["What is llmapi_kit?"]
            tested = client.run()
            check_client(tested)
            assert "No server runs" not in text_of(cell_of(tested, "connect"))
            urls.append(text_of(cell_of(tested, "connect")))
        (key,) = keys_in(home)  # running 03 again made no second server
        assert urls[0] == urls[1]
        assert nb.metadata.get("widgets"), "no widget was drawn, so no widget's state was searched"
        assert not holds(nb, key)
        assert not holds(tested, key)
    assert keys_in(home) == []  # the kernel took its server with it


def test_tools_do_what_they_say_and_client_alone_launches_a_server_and_says_so(home):
    """Both without a server, one after the other in one kernel; above, 04 has a kernel of its own."""
    with open_notebook(NOTEBOOKS / "05_tools_and_structured_output.ipynb") as notebook:
        for _ in range(2):
            check_tools(notebook.run())
        (key,) = keys_in(home)
        assert not holds(notebook.nb, key)
        notebook.execute("kit.stop_all()")
        assert keys_in(home) == []
        notebook.switch_to(NOTEBOOKS / "04_test_client.ipynb")
        nb = notebook.run()
        assert "No server runs on this machine" in text_of(cell_of(nb, "connect"))
        check_client(nb)
        (key,) = keys_in(home)
        assert not holds(nb, key)


def test_colab_does_it_all_in_one_kernel_and_stops_its_server_when_told_to(home):
    with open_notebook(NOTEBOOKS / "colab.ipynb", {"PORT": 0}) as notebook:
        for _ in range(2):
            nb = notebook.run()
            assert "Paris" in exchanges(nb)["What is the capital of France?"]
            assert "Serving." in text_of(cell_of(nb, "stop"))
        (key,) = keys_in(home)
        assert not holds(nb, key)
        notebook.switch_to(NOTEBOOKS / "colab.ipynb", {"PORT": 0, "MODEL": "mock", "KEEP_SERVING": False})
        assert "Stopped." in text_of(cell_of(notebook.run(), "stop"))
        assert keys_in(home) == []


def test_many_backends_answer_behind_one_server(home):
    with open_notebook(NOTEBOOKS / "06_many_backends.ipynb") as notebook:
        for times in (1, 2):
            nb = notebook.run()
            assert "also    gpt-3.5-turbo = pocket" in text_of(cell_of(nb, "launch"))
            answers = dict(read_exchanges(cell_of(nb, "ask").outputs))
            question = "What is the capital of France?"
            assert {name.split(":")[0] for name in answers} == {"pocket", "gpt-practice", "gpt-3.5-turbo"}
            assert answers[f"gpt-practice: {question}"] == question  # the mock repeats it
            assert "Paris" in answers[f"pocket: {question}"]
            assert "Paris" in answers[f"gpt-3.5-turbo: {question}"]
            assert "Paris" in dict(read_exchanges(cell_of(nb, "fallback").outputs))[question]
            assert dict(read_exchanges(cell_of(nb, "own").outputs))[question].startswith("Arr")
            assert "Anna" in dict(read_exchanges(cell_of(nb, "session").outputs))["What is my name?"]
            assert "Tom" in text_of(cell_of(nb, "glm"))
            # Its key lives with the server's name, and so what the key used is counted on
            assert f"pocket {5 * times} requests" in text_of(cell_of(nb, "usage"))
        assert keys_in(home) == []  # its last cell stops both servers


def test_chat_answers_from_code_calls_functions_and_stays_readable(home):
    with open_notebook(NOTEBOOKS / "07_chat.ipynb") as notebook:
        for _ in range(2):
            nb = notebook.run()
            assert "Paris" in text_of(cell_of(nb, "send"))
            assert "2 messages" in text_of(cell_of(nb, "send"))
            assert "Paris" in html_of(cell_of(nb, "chat"))  # the transcript, for readers without a kernel
            assert "widget-view" in str(mimes_of(cell_of(nb, "chat")))
            assert "18 degrees" in text_of(cell_of(nb, "tools"))
            assert "Function get_weather: done" in html_of(cell_of(nb, "tools"))
            assert "Tokyo" in text_of(cell_of(nb, "compare"))
            assert "model.ask(messages" in text_of(cell_of(nb, "export"))


def test_pictures_are_drawn_asked_about_and_sent(home):
    with open_notebook(NOTEBOOKS / "08_pictures.ipynb") as notebook:
        for _ in range(2):
            nb = notebook.run()
            assert "image/png" in mimes_of(cell_of(nb, "draw"))
            assert dict(read_exchanges(cell_of(nb, "ask").outputs)) == {
                "What is in the picture?": "A red circle, a blue square and a green triangle.",
                "How many shapes are there?": "Three.",
                "What shape is the blue one?": "A square.",
                "What is at the bottom?": "A green triangle.",
                "Is there a yellow star?": "No.",
            }
            assert read_exchanges(cell_of(nb, "word").outputs) == [("Which word is written?", "The word hello.")]
            ((_, answer),) = read_exchanges(cell_of(nb, "client").outputs)
            assert answer == exchanges(nb)["What is in the picture?"]
            assert "Yes." in text_of(cell_of(nb, "chat"))
        assert keys_in(home) == []  # its last cell stops the server
