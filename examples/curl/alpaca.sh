#!/usr/bin/env bash
# The Alpaca demo API: text under "message"; the answer is the whole conversation.
source "$(dirname "$0")/api.sh"

post /v1/chat/completions '{
  "messages": [{"role": "user", "message": "What is the capital of Italy?"}],
  "max_tokens": 50, "num_beams": 3
}'
echo
post /v1/chat/completions '{"messages": "What is the capital of Italy?", "temperature": 0}'
echo
# With LLMAPI_KIT_INSTRUCTION_TEMPLATE=alpaca on the server, this prompt is put into that template.
post /v1/completions '{"prompt": "What is the capital of Italy?", "max_tokens": 50, "do_sample": false}'
echo
