#!/usr/bin/env bash
# Everything that is worth measuring on a GPU, in ten minutes or less.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash benchmarks/gpu.sh [--device cuda|cpu] [--small] [--results FOLDER] [--dry-run]

Runs benchmarks.layer (bf16, T 16384, D 1024, H 4096, E 8 and 32: the goal is three quarters of the
dense layer's rate), benchmarks.sorting, benchmarks.assignment and, where fairseq can be imported,
benchmarks.training. A benchmark that fails or takes too long does not keep the others from running;
the exit status is then 1.

  --device D        cuda (default), or cpu to try the script
  --small           tiny sizes: whether it runs at all
  --results FOLDER  where the JSON goes (default: benchmarks/results)
  --dry-run         print the commands instead of running them
  --help            print this text
USAGE
}

fail() {
  echo "gpu.sh: error: $1" >&2
  exit 1
}

device=cuda small=false dry_run=false results=()
while (($#)); do
  case $1 in
    --device | --results) (($# > 1)) || fail "$1 needs a value" ;;&
    --device) device=$2 && shift ;;
    --results) results=(--results "$2") && shift ;;
    --small) small=true ;;
    --dry-run) dry_run=true ;;
    --help | -h) usage && exit 0 ;;
    *) fail "unknown option '$1'; --help lists the options" ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
arguments=(--device "$device")
if "$small"; then arguments+=(--small); fi

status=0
# measure SECONDS NAME [ARGUMENT...]
measure() {
  local command=(timeout "$1" python -m "benchmarks.$2" "${arguments[@]}" "${@:3}")
  if "$dry_run"; then
    printf '%s\n' "${command[*]@Q}"
    return
  fi
  echo "== benchmarks.$2" >&2
  "${command[@]}" || {
    echo "gpu.sh: benchmarks.$2 failed" >&2
    status=1
  }
}

measure 150 layer "${results[@]}"
measure 60 sorting "${results[@]}"
measure 150 assignment --repeat 2 "${results[@]}"
find_fairseq='import importlib.util, sys; sys.exit(importlib.util.find_spec("fairseq") is None)'
if python -c "$find_fairseq"; then
  measure 230 training --precision bf16 "${results[@]}"
else
  echo "gpu.sh: fairseq cannot be imported, so benchmarks.training is left out" >&2
fi
exit "$status"
