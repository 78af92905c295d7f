#!/usr/bin/env bash
# What an EventSource gets: a token first, then a GET with it and without the key.
#   eventsource.sh "What is the capital of Italy?"
source "$(dirname "$0")/api.sh"

token=$(call --request POST "$LLMAPI_KIT_URL/chat-sse/token" | sed 's/.*"token": *"\([^"]*\)".*/\1/')
curl --silent --show-error --fail-with-body --no-buffer --get "$LLMAPI_KIT_URL/chat-sse" \
  --data-urlencode "prompt=${1:-What is the capital of Italy?}" \
  --data-urlencode token@<(printf %s "$token")
