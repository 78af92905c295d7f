"""A stand-in for an agent that prints its public URL: ssh with a provider, or cloudflared.

    python fake_printer.py SCENARIO.json ARGUMENT ...

The scenario (all keys optional): `record` file that gets what it was given; `lines` it prints; `later` further ones
after the file `later_file` has appeared; `exit` status it ends with after its lines; `die_file` that ends it when it
appears. It ends by itself after 60 s, so that a failed test leaves nothing behind for long.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path


def read_files(arguments: list[str]) -> dict[str, str]:
    """What stands in the files that it was told to read."""
    return {each: Path(each).read_text() for each in arguments if Path(each).is_file()}


def main() -> int:
    threading.Timer(60, lambda: os._exit(9)).start()
    scenario, arguments = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:]
    seen = {"pid": os.getpid(), "arguments": arguments, "environment": dict(os.environ), "files": read_files(arguments)}
    draft = Path(scenario["record"] + f".{os.getpid()}")
    draft.write_text(json.dumps(seen))
    draft.replace(scenario["record"])
    for line in scenario.get("lines", []):
        print(line, flush=True)
    if "exit" in scenario:
        return int(scenario["exit"])
    has_later = "later" in scenario
    while not os.path.exists(scenario["die_file"]):
        if has_later and os.path.exists(scenario["later_file"]):
            has_later = False
            for line in scenario["later"]:
                print(line, flush=True)
        time.sleep(0.01)
    return 7


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
