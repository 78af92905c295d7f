"""``python -m llmapi_kit``: the command line."""

from llmapi_kit.cli import app

app(prog_name="llmapi-kit")
