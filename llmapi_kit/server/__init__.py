"""A server in this process: uvicorn in a thread, the handle on it, and the registry of running servers."""
