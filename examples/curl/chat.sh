#!/usr/bin/env bash
# A conversation, answered at once.
source "$(dirname "$0")/api.sh"

post /v1/chat/completions '{
  "messages": [
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": "What is the capital of Italy?"}
  ],
  "max_tokens": 50
}'
echo
