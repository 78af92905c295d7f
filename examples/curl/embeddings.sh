#!/usr/bin/env bash
# Two texts, two vectors of length 1.
source "$(dirname "$0")/api.sh"

post /v1/embeddings '{"input": ["The sun", "The moon"]}'
echo
