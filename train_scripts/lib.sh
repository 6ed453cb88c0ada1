# Shared by the scripts of this folder; source it, do not run it.
# shellcheck shell=bash

repository="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

# step TEXT: a headline before what a step prints itself.
step() {
  printf '\n== %s\n' "$1"
}

# run COMMAND ARGUMENT...: runs it, or prints it under --dry-run.
run() {
  if "${dry_run:-false}"; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# scomoe NAME ARGUMENT...: the command user_dir.cli.NAME, wherever the user is. The repository's
# own environment is taken where it exists. -P: a user_dir in the user's folder is not ours.
scomoe() {
  local module="$1" python="$repository/.venv/bin/python"
  shift
  [[ -x "$python" ]] || python=python3
  run env "PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}" \
    "$python" -P -m "user_dir.cli.$module" "$@"
}
