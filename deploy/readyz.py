#!/usr/bin/env python3
"""Exit with 0 when the server at a port of this container (8000) can answer, else say why not and exit with 1.

For probes: /readyz asks for the key, which would stand in a manifest as a header, and in a command line as an argument.
"""

from __future__ import annotations

import http.client
import os
import sys

DEFAULT_PORT = 8000
TIMEOUT_S = 5


def why_not(port: int) -> str | None:
    """Why the server can't answer; None where it can."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz", headers={"x-api-key": os.environ.get("LLMAPI_KIT_API_KEY", "")})
        response = connection.getresponse()
        said = response.read().decode("utf-8", "replace")
        return None if response.status == http.HTTPStatus.OK else f"{response.status} {said}"
    except (OSError, http.client.HTTPException) as exc:
        return str(exc)
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(why_not(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_PORT))
