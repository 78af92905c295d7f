"""Serves a GGUF file through llama.cpp's own server code, as the package xllamacpp wraps it. Run in its environment.

Prints where it listens, and serves until it is stopped.
"""

from __future__ import annotations

import argparse
import signal

import xllamacpp


def main() -> None:
    """Start it, with a slot for each stream and room for the prompt cache's usual 8 GiB left unused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the GGUF file")
    parser.add_argument("--alias", required=True, help="what requests call it")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=32, help="requests at once")
    parser.add_argument("--context", type=int, required=True, help="tokens of a request")
    parser.add_argument("--threads", type=int, default=-1, help="of a step; all cores unless given")
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.model_alias = {args.alias}
    params.port = args.port
    params.n_parallel = args.slots
    params.n_ctx = args.slots * args.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.verbosity = 0
    params.ui = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
