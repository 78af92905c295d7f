#!/usr/bin/env bash
# Opens VS Code (or JupyterLab) in the browser on a rented or bare Linux machine, with the kit and its notebooks ready.
#
#   ./code-server.sh                 VS Code, on this machine only; reach it through: ssh -L 8888:127.0.0.1:8888 user@machine
#   ./code-server.sh --lab           JupyterLab in its place
#   ./code-server.sh --tunnel        and a public address through ngrok (NGROK_AUTHTOKEN)
#   ./code-server.sh --setup-only    install and start nothing
#   ./code-server.sh --update        newer packages and a newer code-server, then start again
#   ./code-server.sh --stop          stop it
#
#   --port 8888   --host 127.0.0.1   where it listens; anything but 127.0.0.1 can be reached from the network
#
# Run it again at any time: what is there is kept, and a download that broke off goes on. It needs Python 3.10 or newer,
# curl for code-server's own installer, or npm where that is out of reach; as root on Debian and Ubuntu, what is missing
# is installed. Neither root nor systemd is needed otherwise.
set -euo pipefail

port=8888 host=127.0.0.1 kind=code setup_only='' tunnel='' update='' stop=''
state=${XDG_STATE_HOME:-$HOME/.local/state}/llmapi-kit
tools=${XDG_DATA_HOME:-$HOME/.local/share}/llmapi-kit/tools
log=$state/setup.log password_file=$state/password
installer=https://code-server.dev/install.sh
venv=.venv

usage() { sed -n '2,16p' "$0" | sed 's/^# \{0,1\}//'; }
say() { printf '%s\n' "$*"; }
die() { printf 'code-server.sh: %s\n' "$*" >&2; exit 1; }
wrong() { printf 'code-server.sh: %s\n' "$*" >&2; usage >&2; exit 2; }
has() { command -v "$1" >/dev/null 2>&1; }
need_value() { [ $# -ge 2 ] || wrong "$1 needs a value"; }

while [ $# -gt 0 ]; do
  case $1 in
    --port) need_value "$@"; port=$2; shift 2 ;;
    --host) need_value "$@"; host=$2; shift 2 ;;
    --lab) kind=lab; shift ;;
    --tunnel) tunnel=1; shift ;;
    --update) update=1; shift ;;
    --stop) stop=1; shift ;;
    --setup-only) setup_only=1; shift ;;
    -h | --help) usage; exit 0 ;;
    *) wrong "unknown option $1" ;;
  esac
done
if ! [[ $port =~ ^[0-9]{1,5}$ ]] || [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
  wrong "--port takes a number from 1 to 65535, not '$port'"
fi
cd "$(dirname "$0")"
umask 077
mkdir -p "$state" "$tools"

# --- a long step: what it does, how long it takes, and its last lines if it fails ---------------------------------

step() { # step TITLE COMMAND…
  local title=$1 started=$SECONDS said=0 pid status=0
  shift
  say "$title ..."
  printf '\n== %s\n' "$title" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if [ $((SECONDS - started - said)) -ge 10 ]; then
      said=$((SECONDS - started))
      say "  ${said} s: $(tail -c 400 "$log" | tr '\r' '\n' | grep -v '^ *$' | tail -n 1 | cut -c 1-100)"
    fi
  done
  wait "$pid" || status=$?
  if [ "$status" != 0 ]; then
    say "  It failed after $((SECONDS - started)) s. The last lines of $log:" >&2
    tail -n +"$(($(grep -n '^== ' "$log" | tail -n 1 | cut -d : -f 1) + 1))" "$log" | tail -n 15 | sed 's/^/    /' >&2
    return "$status"
  fi
  say "  done in $((SECONDS - started)) s."
}

again() { die "$1 Run this again: what was downloaded is kept."; }
is_root() { [ "$(id -u)" = 0 ]; }
can_apt() { is_root && has apt-get; }
apt_install() {
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# --- what runs: a line of pid, kind and port in a file ----------------------------------------------------------------

is_ours() { # is_ours PID: a process that this script started, and not another one that has its number now
  [ -n "${1:-}" ] && kill -0 "$1" 2>/dev/null && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -Eq "code-server|jupyter|llmapi_kit"
}

stop_one() { # stop_one FILE
  local pid
  [ -e "$1" ] || return 0
  read -r pid _ <"$1" || true
  if is_ours "$pid"; then
    kill -- "-$pid" 2>/dev/null || kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do is_ours "$pid" || break; sleep 0.1; done
    if is_ours "$pid"; then kill -9 -- "-$pid" 2>/dev/null || true; fi
  fi
  rm -f "$1"
}

stop_all() { stop_one "$state/tunnel.pid"; stop_one "$state/server.pid"; }

start() { # start FILE LOG COMMAND…: in the background, in a session of its own, so that it outlives this terminal
  local file=$1 out=$2
  shift 2
  setsid nohup "$@" >"$out" 2>&1 </dev/null &
  printf '%s %s %s\n' "$!" "$kind" "$port" >"$file"
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

# --- setting up -------------------------------------------------------------------------------------------------------

find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3.10 python3; do
    if has "$candidate" && "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      printf '%s' "$candidate"
      return 0
    fi
  done
  return 1
}

set_up_python() {
  local python stamp=$venv/.installed-by-code-server
  if [ -e "$stamp" ] && [ -z "$update" ] && [ ! pyproject.toml -nt "$stamp" ] && [ ! constraints.txt -nt "$stamp" ]; then
    return 0
  fi
  if ! python=$(find_python); then
    can_apt || die "needs Python 3.10 or newer with venv and pip. Install it (apt install python3-venv) and run this again."
    step "Installing Python" apt_install python3 python3-venv python3-pip || again "Python could not be installed."
    python=$(find_python) || die "this system's Python is older than 3.10; install a newer one."
  fi
  [ -x $venv/bin/python ] || step "Making $venv with $("$python" --version)" "$python" -m venv $venv || again "The environment could not be made."
  step "Installing the kit with torch and Jupyter (some minutes the first time)" \
    $venv/bin/python -m pip install --disable-pip-version-check --progress-bar off ${update:+--upgrade} \
    -c constraints.txt -e '.[torch,notebook]' || again "The packages could not be installed."
  step "Telling Jupyter of this environment" \
    $venv/bin/python -m ipykernel install --sys-prefix --name llmapi-kit --display-name "llmapi_kit" || true
  touch "$stamp"
}

find_code_server() {
  local candidate
  for candidate in "$tools/bin/code-server" "$tools/npm/bin/code-server"; do
    if [ -x "$candidate" ]; then printf '%s' "$candidate"; return 0; fi
  done
  command -v code-server
}

install_by_script() { # the official way, for this user only: no root, no systemd
  curl -fsSL --retry 3 --max-time 60 "$installer" -o "$state/install.sh" || return 1
  sh "$state/install.sh" --method=standalone --prefix="$tools"
}

install_by_npm() {
  local npm_options=(--no-fund --no-audit --fetch-retries 5 "--allow-scripts=code-server,argon2")
  npm install --no-fund --no-audit --prefix "$tools/node" node@24 || return 1
  # Headers to build with: node's own site has them, and Debian's packages do, which is enough for what is built here
  if [ -e /usr/include/node/node_api.h ] && ! curl -fsI --max-time 10 -o /dev/null https://nodejs.org/download/release/; then
    export npm_config_nodedir=/usr
  fi
  PATH=$tools/node/node_modules/node/bin:$PATH npm install -g --prefix "$tools/npm" "${npm_options[@]}" code-server || return 1
  # The installed program asks for "node" by name
  ln -sf "$tools/node/node_modules/node/bin/node" "$tools/npm/bin/node"
}

set_up_code_server() {
  local missing=()
  if find_code_server >/dev/null && [ -z "$update" ]; then return 0; fi
  if has curl && curl -fsSL --max-time 15 -o /dev/null "$installer" 2>/dev/null; then
    step "Installing code-server with its own installer" install_by_script && return 0
    say "Trying npm in its place."
  fi
  has npm || missing+=(npm)
  has g++ && has make || missing+=(build-essential)
  has pkg-config || missing+=(pkg-config)
  [ -e /usr/include/krb5.h ] || missing+=(libkrb5-dev)
  if [ ${#missing[@]} -gt 0 ]; then
    can_apt || die "code-server's installer is out of reach, and npm needs: ${missing[*]}. Ask for them, or use --lab, which needs nothing more."
    step "Installing what code-server is built with: ${missing[*]}" apt_install "${missing[@]}" || again "apt-get failed."
  fi
  step "Installing code-server from npm (2 to 4 minutes)" install_by_npm || again "code-server could not be installed. JupyterLab needs less: --lab."
}

set_up_editor() { # extensions of Open VSX, and the environment as the one to run cells with
  local code=$1 settings=$state/code/User/settings.json extension
  mkdir -p "$(dirname "$settings")"
  if [ ! -e "$settings" ]; then
    printf '{\n  "python.defaultInterpreterPath": "%s/%s/bin/python",\n  "jupyter.askForKernelRestart": false,\n  "telemetry.telemetryLevel": "off",\n  "workbench.startupEditor": "none",\n  "workbench.secondarySideBar.defaultVisibility": "hidden",\n  "security.workspace.trust.enabled": false,\n  "chat.disableAIFeatures": true\n}\n' "$PWD" "$venv" >"$settings"
  fi
  for extension in ms-python.python ms-toolsai.jupyter; do
    [ -z "$update" ] && compgen -G "$state/code/extensions/$extension-*" >/dev/null && continue
    if ! step "Installing the extension $extension" run_code "$code" ${update:+--force} --install-extension "$extension"; then
      say "  Without ms-python.python and ms-toolsai.jupyter (of open-vsx.org) cells don't run in VS Code. Run this again"
      say "  when that can be reached, or use --lab."
      return 0
    fi
  done
}

run_code() { # run_code PROGRAM OPTIONS…
  local code=$1
  shift
  PATH=$tools/npm/bin:$PATH "$code" --user-data-dir "$state/code" --extensions-dir "$state/code/extensions" "$@"
}

make_password() {
  [ -s "$password_file" ] && return 0
  "$venv/bin/python" -c 'import secrets; print(secrets.token_urlsafe(18))' >"$password_file.new"
  mv "$password_file.new" "$password_file"
  is_new=1
}

# --- starting ---------------------------------------------------------------------------------------------------------

start_code() {
  local config=$state/code-server.yaml
  # In a file and not among the arguments, which every user of the machine can read
  printf 'bind-addr: %s:%s\nauth: password\npassword: "%s"\ncert: false\n' "$host" "$port" "$(cat "$password_file")" >"$config"
  PATH=$tools/npm/bin:$PATH start "$state/server.pid" "$state/server.log" "$1" --config "$config" \
    --user-data-dir "$state/code" --extensions-dir "$state/code/extensions" --disable-telemetry --disable-update-check "$PWD/notebooks"
}

start_lab() {
  local options=(--no-browser --ip "$host" --port "$port" --ServerApp.port_retries=0 --notebook-dir notebooks)
  ! is_root || options+=(--allow-root)
  [ -z "$tunnel" ] || options+=(--ServerApp.allow_remote_access=True)
  JUPYTER_TOKEN=$(cat "$password_file") start "$state/server.pid" "$state/server.log" \
    "$venv/bin/python" -m jupyterlab "${options[@]}"
}

wait_until_it_answers() {
  local pid
  read -r pid _ <"$state/server.pid"
  for _ in $(seq 300); do
    answers && return 0
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 15 "$state/server.log" | sed 's/^/    /' >&2
  stop_all
  die "it did not start; its last lines are above, and all of them in $state/server.log."
}

open_tunnel() {
  stop_one "$state/tunnel.pid"
  start "$state/tunnel.pid" "$state/tunnel.log" "$venv/bin/python" -m llmapi_kit.tunnels "$port"
  local pid
  read -r pid _ <"$state/tunnel.pid"
  for _ in $(seq 300); do
    if grep -q '^https://' "$state/tunnel.log"; then say "Public: $(grep -m 1 '^https://' "$state/tunnel.log")"; return 0; fi
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 5 "$state/tunnel.log" | sed 's/^/    /' >&2
  rm -f "$state/tunnel.pid"
  say "No tunnel was opened; see above. The server runs, on this machine only." >&2
}

say_where() {
  local name="VS Code" word=password
  [ "$kind" = code ] || { name=JupyterLab; word="password (token)"; }
  say "$name answers at http://$host:$port"
  if [ -n "${is_new:-}" ]; then
    say "Its $word, shown this once: $(cat "$password_file")"
  else
    say "Its $word is in $password_file"
  fi
  if [ "$host" = 127.0.0.1 ]; then
    say "From your own machine: ssh -L $port:127.0.0.1:$port $(id -un)@this-machine, and open http://127.0.0.1:$port"
  else
    say "It can be reached from the network, without encryption: whoever listens in between reads the password."
  fi
  say "Stop it with: $0 --stop"
}

if [ -n "$stop" ]; then
  if [ -e "$state/server.pid" ]; then stop_all; say "Stopped."; else say "Nothing runs."; fi
  exit 0
fi

set_up_python
code=''
if [ "$kind" = code ]; then
  set_up_code_server
  code=$(find_code_server)
  set_up_editor "$code"
fi
if [ -n "$setup_only" ]; then
  $venv/bin/llmapi-kit doctor || say "The doctor found something; see above."
  say "All is set up. Start it with: $0$([ "$kind" = code ] || printf ' --lab')"
  exit 0
fi
make_password

running='' was_kind='' was_port=''
[ ! -e "$state/server.pid" ] || read -r running was_kind was_port <"$state/server.pid" || true
if is_ours "$running" && [ -z "$update" ] && [ "$was_kind $was_port" = "$kind $port" ]; then
  say "It runs already."
else
  stop_all
  ! answers || die "port $port is in use by another program. Pass another --port."
  "start_$kind" "$code"
  wait_until_it_answers
fi
say_where
[ -z "$tunnel" ] || open_tunnel
