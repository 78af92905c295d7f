"""How the command line tells of errors."""

from __future__ import annotations

import sys

import typer

from llmapi_kit.errors import LlmApiKitError


class errors_as_lines:  # noqa: N801 - reads as a statement
    """An error of the kit becomes a line on stderr and exit status 1."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, LlmApiKitError):
            print(f"llmapi-kit: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
