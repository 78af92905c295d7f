# Read by the other scripts: `post PATH JSON` sends a request with the key, which stands in no command line.
set -euo pipefail
: "${LLMAPI_KIT_URL:?is the address of the server, such as http://127.0.0.1:8000}"
: "${LLMAPI_KIT_API_KEY:?is its key: server.api_key in the notebook that launched it}"

call() { # curl's own arguments
  curl --silent --show-error --fail-with-body --no-buffer \
    --header @<(printf 'Authorization: Bearer %s\n' "$LLMAPI_KIT_API_KEY") "$@"
}

post() { # PATH JSON
  call --json "$2" "$LLMAPI_KIT_URL$1"
}
