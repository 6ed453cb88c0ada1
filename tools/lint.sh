#!/usr/bin/env bash
# Checks the form of all Python and shell code; `make lint` runs it inside .venv.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/lint.sh [--dry-run] [--help]

Runs ruff (lint and format), mypy on user_dir, and bash -n and shellcheck on every script.

  --dry-run   print the commands instead of running them
  --help      print this text
USAGE
}

run() {
  if "$dry_run"; then
    printf '%s\n' "${*@Q}"
  else
    "$@"
  fi
}

# New files count too, before they are added; without git every file does.
list_scripts() {
  git ls-files --cached --others --exclude-standard '*.sh' .ci/run ':!.venv' 2>/dev/null ||
    find . -path ./.venv -prune -o \( -name '*.sh' -o -path './.ci/run' \) -type f -print
}

dry_run=false
case ${1:-} in
  --dry-run) dry_run=true ;;
  --help | -h) usage && exit 0 ;;
  '') ;;
  *) echo "lint: error: unknown option '$1'; --help lists the options" >&2 && exit 1 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
mapfile -t scripts < <(list_scripts)

status=0
run ruff check . || status=1
run ruff format --check . || status=1
run mypy user_dir || status=1
for script in "${scripts[@]}"; do
  run bash -n "$script" || status=1
done
if command -v shellcheck >/dev/null; then
  run shellcheck --external-sources --source-path=SCRIPTDIR "${scripts[@]}" || status=1
else
  echo "lint: shellcheck is not installed, so the scripts were only parsed" >&2
fi
exit "$status"
