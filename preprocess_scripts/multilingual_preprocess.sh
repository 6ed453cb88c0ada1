#!/usr/bin/env bash
# Prepares OPUS-100 for multilingual translation; --help says how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: preprocess_scripts/multilingual_preprocess.sh --raw DIR|--tarball FILE --out DIR [options]

Writes OPUS-100 v1.0 (English to and from 99 languages), as published, as a corpus that
fairseq-train reads from DIR/bin. Works in stages in DIR/work; the same command goes on after
an interruption.

  --raw DIR                 folder in which the tarball was unpacked
  --tarball FILE            opus-100-corpus-v1.0.tar.gz, not unpacked
  --out DIR                 folder to write, work folder included (required)
  --directions LIST         such as en-de,fr-en, or all: both ways for every pair (all)
  --vocab-size N            most pieces of the joint sentencepiece BPE (64000)
  --input-sentence-size N   sentences that the pieces are learned from (10000000)
  --character-coverage X    share of the characters that pieces cover (0.99995)
  --max-pieces N            longer sentences are not trained on (100)
  --drop-test-overlap       train on no sentence that occurs in any test set
  --workers N               processes (all processors)
  --keep-work               keep text and pieces in DIR/work at the end
  --overwrite               redo what other options than before change, instead of refusing
  --debug                   show the stack trace of an error beside its sentence
  --dry-run                 print the command and stop

Example:
  preprocess_scripts/multilingual_preprocess.sh --tarball opus-100-corpus-v1.0.tar.gz --out corpora/opus-100
TEXT
}

if wants_help "$@"; then
  usage
  exit 0
fi
prepare prepare_opus100 "$@"
