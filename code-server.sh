#!/usr/bin/env bash
# Sets up a rented machine (a bare Linux box with a GPU or without) and opens JupyterLab on the notebooks.
#
#   ./code-server.sh [--port 8888] [--host 127.0.0.1] [--setup-only]
#
# JupyterLab listens on this machine only, unless --host says otherwise; reach it through ssh:
#   ssh -L 8888:127.0.0.1:8888 user@machine
# Needs Python 3.10+; on Debian and Ubuntu, as root, missing packages are installed.
set -euo pipefail

port=8888 host=127.0.0.1 setup_only=
usage() { sed -n '2,8p' "$0" | sed 's/^# \{0,1\}//'; }
need_value() { [ $# -ge 2 ] || { echo "code-server.sh: $1 needs a value" >&2; exit 2; }; }
while [ $# -gt 0 ]; do
  case $1 in
    --port) need_value "$@"; port=$2; shift 2 ;;
    --host) need_value "$@"; host=$2; shift 2 ;;
    --setup-only) setup_only=1; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "code-server.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
done
[[ $port =~ ^[0-9]+$ ]] || { echo "code-server.sh: --port takes a number, not '$port'" >&2; exit 2; }
cd "$(dirname "$0")"

python=
for candidate in python3.11 python3.12 python3.13 python3.10 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Python ..."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv python3-pip >/dev/null
    python=python3
  else
    echo "code-server.sh: needs Python 3.10 or newer with venv and pip; install it and run this again." >&2
    exit 1
  fi
fi

venv=.venv
stamp=$venv/.installed-by-code-server
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
  echo "Setting up $venv with $("$python" --version); the first time takes some minutes ..."
  [ -x $venv/bin/python ] || "$python" -m venv $venv
  $venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,notebook]'
  touch "$stamp"
fi
$venv/bin/llmapi-kit doctor || echo "The doctor found something; see above."
[ -z "$setup_only" ] || exit 0

echo "Opening JupyterLab on http://$host:$port; its token is in the lines below."
root=()
[ "$(id -u)" != 0 ] || root=(--allow-root)
exec $venv/bin/python -m jupyterlab --no-browser --ip "$host" --port "$port" --notebook-dir notebooks "${root[@]}"
