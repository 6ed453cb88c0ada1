#!/usr/bin/env bash
# Every benchmark that a machine without GPU can run, in about half an hour.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash benchmarks/cpu.sh [--only NAME] [--dry-run]

Runs benchmarks.layer, sorting, assignment, training, decoding and network, one after the other,
prints their tables and writes benchmarks/results/*.json. The network needs root and iproute2 and
is left out without them. One that fails or takes too long does not keep the others from running;
the exit status is then 1. Leave the cores to it: the figures are ratios of times.

  --only NAME   this one only
  --dry-run     print the commands instead of running them
  --help        print this text
USAGE
}

fail() {
  echo "cpu.sh: error: $1" >&2
  exit 1
}

names=(layer sorting assignment training decoding network) only='' dry_run=false
while (($#)); do
  case $1 in
    --only)
      (($# > 1)) || fail "--only needs a value: one of ${names[*]}"
      only=$2 && shift
      [[ " ${names[*]} " == *" $only "* ]] || fail "--only $only: not one of ${names[*]}"
      ;;
    --dry-run) dry_run=true ;;
    --help | -h) usage && exit 0 ;;
    *) fail "unknown option '$1'; --help lists the options" ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=1 # a process a core: the most even of all shares

# Seconds that each may take; together 41 minutes at most.
declare -A limits=([layer]=420 [sorting]=60 [assignment]=120 [training]=300 [decoding]=450 [network]=1100)

has_network() {
  ((EUID == 0)) && command -v ip >/dev/null && command -v tc >/dev/null && [[ $OSTYPE == linux* ]]
}

status=0
for name in "${names[@]}"; do
  [[ -z $only || $only == "$name" ]] || continue
  command=(timeout "${limits[$name]}" python -m "benchmarks.$name")
  if "$dry_run"; then
    printf '%s\n' "${command[*]@Q}"
    continue
  fi
  if [[ $name == network ]] && ! has_network; then
    echo "cpu.sh: benchmarks.network needs Linux, root, ip and tc (iproute2), and is left out" >&2
    continue
  fi
  echo "== benchmarks.$name" >&2
  "${command[@]}" || {
    echo "cpu.sh: benchmarks.$name failed" >&2
    status=1
  }
done
exit "$status"
