#!/usr/bin/env bash
# Makes the virtual environment that the Makefile's targets use: ./setup.sh run | test
# `make` calls this when pyproject.toml or constraints.txt is newer than the last setup that ended.
# VENV (.venv) and PYTHON (the first of python3.11, 3.12, 3.13 that works) may be set.
set -euo pipefail
cd "$(dirname "$0")"

VENV=${VENV:-.venv}
PYTHON=${PYTHON:-}

say() { echo "[setup] $*"; }
stop() {
  echo "[setup] $1" >&2
  exit 1
}

# Starts, and is a version that the pins were made for. A pyenv shim exists for versions that are not active: so run it.
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

find_python() {
  local name
  if [ -n "$PYTHON" ]; then
    suits "$PYTHON" || stop "PYTHON=$PYTHON does not start or is not Python 3.11, 3.12 or 3.13; name one that is."
    return
  fi
  for name in python3.11 python3.12 python3.13 python3 python; do
    if suits "$name"; then
      PYTHON=$name
      return
    fi
  done
  stop "No Python 3.11, 3.12 or 3.13 was found. Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install
        python@3.11; or say where one is: make run PYTHON=/path/to/python3.11"
}

# Before gigabytes are fetched: is this a platform that torch and OpenVINO have wheels for?
check_platform() {
  local platform
  platform=$("$PYTHON" -c 'import platform; print(platform.system(), platform.machine())')
  case $platform in
    "Linux x86_64" | "Darwin arm64") ;;
    "Linux aarch64")
      # psutil < 6, which kserve asks for, has no wheel there
      command -v cc >/dev/null || stop "psutil is compiled on Linux arm64 and there is no C compiler: apt install gcc python3-dev"
      ;;
    *) stop "This Python runs on $platform; the packages exist for Linux x86_64 and aarch64 and for macOS arm64 only." ;;
  esac
}

make_environment() {
  if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    suits "$VENV/bin/python" ||
      stop "$VENV is $("$VENV/bin/python" --version), not 3.11, 3.12 or 3.13; remove it, or choose another place: make run VENV=.venv311"
    PYTHON=$VENV/bin/python
    check_platform
    return
  fi
  find_python
  check_platform
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    stop "$PYTHON cannot make virtual environments: apt install $("$PYTHON" -c \
      'import sys; print(f"python3.{sys.version_info[1]}-venv")') (or python3-venv), then run make again."
  say "$("$PYTHON" --version) in $VENV"
  "$PYTHON" -m venv --clear "$VENV"
}

# pip writes INSTALLER last: a package without it is one that a killed setup had not finished, though pip believes it.
drop_half_installed() {
  local info
  for info in "$VENV"/lib/python*/site-packages/*.dist-info; do
    if [ -d "$info" ] && [ ! -f "$info/INSTALLER" ]; then
      say "$(basename "$info" .dist-info) was installed by half; once more"
      rm -rf "$info"
    fi
  done
}

# Reads what pip prints and tells what matters of it.
tell() {
  local line fetched=0
  while IFS= read -r line; do
    case $line in
      *.metadata*) ;;
      *"Downloading "*MB\)* | *"Using cached "*MB\)*)
        fetched=$((fetched + 1))
        say "  $fetched: ${line#"${line%%[![:space:]]*}"}"
        ;;
      *"Downloading "* | *"Using cached "*)
        fetched=$((fetched + 1))
        [ $((fetched % 25)) -ne 0 ] || say "  $fetched packages fetched"
        ;;
      "Installing collected packages"*)
        line=${line//[!,]/}
        say "  unpacking $((${#line} + 1)) packages; of all 200 it takes a minute or two, without a word"
        ;;
    esac
  done
}

install() {
  local free
  if [ -e "$VENV/.ready-run" ]; then
    say "looking for what has changed"
  else
    free=$(df -Pk "$VENV" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge 10 ] || say "only $free GB are free here; on Linux the packages take 6 GB, and 3 GB more while they are fetched"
    say "installing about 200 packages; this takes minutes (on Linux torch brings its CUDA libraries: 6 GB in all)"
  fi
  "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
    --constraint constraints.txt --editable ".[$1]" | tee "$VENV/setup.log" | tell
}

case ${1:-} in
  run) extras=steps,serving,pipelines done_with="run" ;;
  test) extras=steps,serving,pipelines,dev done_with="run test" ;;
  *) stop "usage: ./setup.sh run | test" ;;
esac

make_environment
drop_half_installed
# The stamp gets the time of the beginning, so that an edit of pyproject.toml in between is not missed.
touch "$VENV/.setup-began"
install "$extras" || stop "The installation failed: pip's reason is above, and more of it in $VENV/setup.log. Run make again to go on."
for name in $done_with; do
  cp -p "$VENV/.setup-began" "$VENV/.ready-$name"
done
say "ready"
