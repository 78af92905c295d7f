#!/usr/bin/env bash
# The session API: the server keeps the conversation.
source "$(dirname "$0")/api.sh"

started=$(post /v1/chat/start '{"bot_type": "chatgpt", "settings": {"system": "You answer in one sentence."}}')
session=$(sed 's/.*"session": *"\([^"]*\)".*/\1/' <<<"$started")

post /v1/chat/ask "{\"session\": \"$session\", \"content\": \"What is the capital of Italy?\", \"timeout\": 60}"
echo
post /v1/chat/ask "{\"session\": \"$session\", \"content\": \"And of France?\", \"timeout\": 60}"
echo
post /v1/chat/end "{\"session\": \"$session\"}"
echo
