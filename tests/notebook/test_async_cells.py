"""`kit.run`: asynchronous code in plain Python, in a running loop, and in a kernel's cell."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

import llmapi_kit as kit
from tests.notebooks.kernels import run_cells, text_of

pytestmark = pytest.mark.kernel


async def double(number):
    await asyncio.sleep(0)
    return 2 * number


async def fail():
    raise ValueError("from within")


def test_plain_python_gets_the_result():
    assert kit.run(double(21)) == 42


def test_plain_python_gets_the_error():
    with pytest.raises(ValueError, match="from within"):
        kit.run(fail())


@pytest.mark.slow
def test_cell_gets_result_and_error_and_other_calls_stay_as_they_were(tmp_path):
    nb = run_cells(
        tmp_path,
        "import asyncio\nbefore = asyncio.run\nimport llmapi_kit as kit",
        "async def double(number):\n    await asyncio.sleep(0.01)\n    return 2 * number",
        "print(kit.run(double(21)), kit.run(double(4)))",
        "print(asyncio.run is before)",
        "async def nested():\n    return kit.run(double(5))\nprint(kit.run(nested()))",
        "print(await double(3))",
        "async def fail():\n    raise ValueError('from within')\n"
        "try:\n    kit.run(fail())\nexcept ValueError as error:\n    print(error)",
    )
    assert [text_of(cell).strip() for cell in nb.cells[2:]] == ["42 8", "True", "10", "6", "from within"]


@pytest.mark.slow
def test_cell_uses_the_async_client_of_a_server(tmp_path):
    nb = run_cells(
        tmp_path,
        "import llmapi_kit as kit\nserver = kit.launch('mock', port=0)",
        "async def ask():\n    async with server.async_client() as client:\n"
        "        answer = await client.chat.completions.create(\n"
        "            model='mock', messages=[{'role': 'user', 'content': 'echo this'}])\n"
        "        return answer.choices[0].message.content\nprint(kit.run(ask()))",
    )
    assert "echo this" in text_of(nb.cells[1])


def test_loop_that_can_not_be_nested_is_left_alone():
    async def main():
        return kit.run(double(21))

    loop = uvloop.new_event_loop()
    try:
        assert loop.run_until_complete(main()) == 42
    finally:
        loop.close()
