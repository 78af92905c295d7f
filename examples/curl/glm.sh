#!/usr/bin/env bash
# The GLM API: a prompt and the pairs of question and answer before it.
source "$(dirname "$0")/api.sh"

conversation='
  "prompt": "And of Italy?",
  "history": [["What is the capital of France?", "The capital of France is Paris."]],
  "temperature": 0'

post /chat "{$conversation, \"max_length\": 4096}"
echo
post /chat-stream "{$conversation}"                  # each event has all that was said so far
post /chat-stream "{$conversation, \"chunk\": true}" # each has what is new
post /tokenize '{"prompt": "The sun", "max_length": 4096}'
echo
post /embedding '{"prompt": ["The sun", "The moon"]}'
echo
