"""Answers from a model in this process: prompts, the batching loop, replies."""
