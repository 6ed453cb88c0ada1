# Shared by the scripts of this folder; source it, do not run it.
# shellcheck shell=bash

repository="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

# The repository's own environment where it exists: its packages are the tested ones.
python_of_repository() {
  local python="$repository/.venv/bin/python"
  if [[ -x "$python" ]]; then
    printf '%s\n' "$python"
  else
    printf 'python3\n'
  fi
}

# prepare MODULE ARGUMENT...: runs user_dir.cli.MODULE from wherever the user is; --dry-run
# among the arguments prints the command instead. -P: a user_dir in the user's folder is not ours.
prepare() {
  local module="$1" argument dry_run=false
  local -a arguments=()
  shift
  for argument in "$@"; do
    if [[ "$argument" == --dry-run ]]; then
      dry_run=true
    else
      arguments+=("$argument")
    fi
  done
  local -a command=(
    env "PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}"
    "$(python_of_repository)" -P -m "user_dir.cli.$module" "${arguments[@]}"
  )
  if "$dry_run"; then
    printf '%q ' "${command[@]}"
    printf '\n'
  else
    exec "${command[@]}"
  fi
}

# wants_help ARGUMENT...: whether --help or -h is among them.
wants_help() {
  local argument
  for argument in "$@"; do
    if [[ "$argument" == --help || "$argument" == -h ]]; then
      return 0
    fi
  done
  return 1
}
