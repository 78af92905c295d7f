"""``python -m llmapi_kit``: the command line."""

from llmapi_kit.cli.app import app

app(prog_name="llmapi-kit")
