#!/usr/bin/env bash
# Builds .venv in the repository; what it does step by step is told in docs/installation.md.
set -euo pipefail

readonly FAIRSEQ_VERSION=0.12.3.1
readonly PYTHON_PACKAGES="python3.11 python3.11-venv python3.11-dev"

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
readonly root
readonly venv="$root/.venv"
readonly log="$venv/install.log"
readonly stamp="$venv/install.stamp"
dry_run=false
python=
why_not=

usage() {
  cat <<'USAGE'
usage: bash tools/install.sh [--dry-run] [--help]

Builds .venv with pinned versions of everything, fairseq and this package included. Does
nothing when .venv is up to date; picks up where an interrupted installation left off.

  --dry-run   print the steps instead of doing them
  --help      print this text

environment:
  PYTHON      the Python to use (3.11 or 3.12); otherwise the first good one on PATH
  CXX         the C++ compiler to use; otherwise c++ or g++
  MAX_JOBS    how many compilers may run at once; otherwise the number of cores
USAGE
}

die() {
  printf 'install: error: %s\n' "$*" >&2
  exit 1
}

parse_args() {
  while (($#)); do
    case $1 in
      --dry-run) dry_run=true ;;
      --help | -h) usage && exit 0 ;;
      *) die "unknown option '$1'; --help lists the options" ;;
    esac
    shift
  done
}

# Settings that would let other packages in, or send ours elsewhere.
isolate() {
  unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX
  export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
}

# --- is there anything to do? -------------------------------------------------------------

minor_version() { # "3.11" of the interpreter $1, nothing if it does not run
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

venv_is_usable() {
  local version
  # A script of a moved or copied environment still runs the Python of the old place.
  grep -qsF "$venv/bin/python" "$venv/bin/pip" || return 1
  version="$(minor_version "$venv/bin/python")"
  [[ $version == 3.11 || $version == 3.12 ]] || return 1
  [[ -z ${PYTHON:-} || $(minor_version "$PYTHON") == "$version" ]]
}

fingerprint() {
  shopt -s nullglob
  local inputs=(requirements.lock setup.py tools/install.sh user_dir/fast_moe/routing/csrc/*.cpp)
  { "$venv/bin/python" --version && cat "${inputs[@]}"; } | sha256sum
}

up_to_date() {
  [[ -f $stamp ]] && venv_is_usable && [[ "$(fingerprint)" == "$(<"$stamp")" ]]
}

stop_if_up_to_date() {
  if up_to_date; then
    echo "install: .venv is up to date"
    exit 0
  fi
}

# Two installations at once, as by make in two terminals, would spoil each other.
lock_repository() {
  exec 9<"$root"
  flock --timeout 1 9 && return
  echo "install: waiting for another installation in this repository"
  flock 9
}

# --- what the machine must offer ----------------------------------------------------------

compiler_works() {
  "$1" -x c++ -fsyntax-only - <<<'#include <vector>' &>/dev/null
}

check_compiler() {
  local candidate
  for candidate in ${CXX:-c++ g++}; do
    compiler_works "$candidate" && return
  done
  die "fairseq's extensions need a C++ compiler, but none works" \
    "(tried ${CXX:+CXX=}${CXX:-c++ and g++}); install one with: sudo apt-get install g++"
}

# Prints "VERSION MISSING", where MISSING is "-" or the Debian package suffixes that $1 lacks.
probe_python() {
  "$1" -c '
import os, sys
missing = []
try:
    import ensurepip, venv
except ImportError:
    missing.append("venv")
try:
    import sysconfig
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        missing.append("dev")
except ImportError:
    missing.append("dev")
print("%d.%d %s" % (sys.version_info[0], sys.version_info[1], ",".join(missing) or "-"))
' 2>/dev/null
}

# Sets why_not to a sentence where the Python $1 will not do.
python_is_good() {
  local version missing
  if [[ $1 == "$venv"/* ]]; then
    why_not="$1 is a part of the environment that is to be built"
    return 1
  fi
  # pyenv leaves shims behind for versions that are not active: only running one tells.
  if ! read -r version missing < <(probe_python "$1"); then
    why_not="$1 does not run"
    return 1
  fi
  if [[ $version != 3.11 && $version != 3.12 ]]; then
    why_not="$1 is Python $version"
    return 1
  fi
  [[ $missing == - ]] && return
  local packages="python$version-${missing/,/ python$version-}"
  why_not="$1 is incomplete; install the rest with: sudo apt-get install $packages"
  return 1
}

find_python() {
  local name candidate incomplete=
  if [[ -n ${PYTHON:-} ]]; then
    python="$(type -P "$PYTHON" || echo "$PYTHON")"
    python_is_good "$python" || die "PYTHON must be a Python 3.11 or 3.12, but $why_not"
    return
  fi
  for name in python3.11 python3.12 python3; do
    while read -r candidate; do
      if python_is_good "$candidate"; then
        python="$candidate"
        return
      fi
      [[ $why_not == *incomplete* ]] && incomplete="${incomplete:-$why_not}"
    done < <(type -aP "$name")
  done
  [[ -z $incomplete ]] || die "$incomplete"
  die "Python 3.11 or 3.12 is needed, but ${why_not:-there is none on PATH}; install it with:" \
    "sudo apt-get install $PYTHON_PACKAGES (or the same of 3.12), or name one: PYTHON=/path/to/it"
}

# --- the steps ----------------------------------------------------------------------------

show_log_and_die() {
  printf 'install: error: this step failed; the last lines of .venv/install.log:\n' >&2
  tail -n 25 "$log" >&2
  printf 'install: once the cause is gone, the same command picks up where it left off\n' >&2
  exit 1
}

stop_when_interrupted() {
  echo "install: interrupted; the same command picks up where it left off" >&2
  exit 130
}

step() { # "what it does" command argument...
  echo "install: $1"
  shift
  if "$dry_run"; then
    printf '  would run: %s\n' "${*@Q}"
    return
  fi
  printf '\n$ %s\n' "$*" >>"$log"
  "$@" >>"$log" 2>&1 || show_log_and_die
}

pip() {
  "$venv/bin/python" -m pip "$@"
}

ensure_venv() {
  if venv_is_usable && "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    return
  fi
  find_python
  # No step may find the remains of an environment that does not work.
  "$dry_run" || { rm -rf "$venv" && mkdir "$venv"; }
  step "creating .venv with $("$python" --version) ($python)" "$python" -m venv "$venv"
}

install_pinned() {
  step "installing the pinned packages, torch among them (minutes)" \
    pip install --requirement requirements.lock
}

# Loading the compiled parts is the one test that they fit the torch and numpy beside them.
fairseq_works() {
  "$venv/bin/python" -c "
from importlib.metadata import version
assert version('fairseq-fixed') == '$FAIRSEQ_VERSION', version('fairseq-fixed')
import fairseq.libbase, fairseq.data.data_utils_fast, fairseq.data.token_block_utils_fast"
}

# A wheel that pip kept from a build against another torch or numpy must not be found.
fairseq_cache() {
  local built_against
  built_against="$("$venv/bin/python" -c '
from importlib.metadata import version
print("torch-" + version("torch") + "-numpy-" + version("numpy"))')"
  echo "${XDG_CACHE_HOME:-$HOME/.cache}/scomoe/$built_against"
}

install_fairseq() {
  # The wheel that the index has for Python 3.12 was built for an older torch: it cannot load.
  local args=(--no-binary fairseq-fixed --no-build-isolation --no-deps)
  args+=("fairseq-fixed==$FAIRSEQ_VERSION")
  if "$dry_run"; then
    step "compiling fairseq $FAIRSEQ_VERSION against the installed torch" pip install "${args[@]}"
    return
  fi
  fairseq_works &>>"$log" && return
  if pip show fairseq-fixed &>/dev/null; then
    args+=(--force-reinstall --no-cache-dir) # it is there and does not load: build it anew
  elif [[ -z ${PIP_NO_CACHE_DIR:-} && -n ${HOME:-} ]]; then
    args+=(--cache-dir "$(fairseq_cache)")
  fi
  # With CUDA_HOME fairseq would also build kernels that we never use, for GPUs long gone.
  step "compiling fairseq $FAIRSEQ_VERSION against the installed torch (minutes)" \
    env -u CUDA_HOME MAX_JOBS="${MAX_JOBS:-$(nproc)}" \
    "$venv/bin/python" -m pip install "${args[@]}"
}

install_ourselves() {
  step "installing this package" pip install --no-build-isolation --no-deps --editable .
}

check_imports() {
  step "checking that fairseq and this package are found" check_imports_now
}

check_imports_now() {
  fairseq_works && "$venv/bin/python" -c "from importlib.metadata import version; version('scomoe')"
}

main() {
  parse_args "$@"
  cd "$root"
  isolate
  stop_if_up_to_date
  lock_repository
  stop_if_up_to_date # the installation that we waited for may have been the same
  check_compiler
  "$dry_run" || rm -f "$stamp"
  trap stop_when_interrupted INT TERM
  ensure_venv
  install_pinned
  install_fairseq
  install_ourselves
  check_imports
  "$dry_run" && return
  fingerprint >"$stamp"
  echo "install: done in $SECONDS s"
}

main "$@"
