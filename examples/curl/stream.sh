#!/usr/bin/env bash
# The same as server-sent events: a piece a line, [DONE] at the end.
source "$(dirname "$0")/api.sh"

post /v1/chat/completions '{
  "messages": [{"role": "user", "content": "What is the capital of Italy?"}],
  "stream": true,
  "stream_options": {"include_usage": true}
}'
