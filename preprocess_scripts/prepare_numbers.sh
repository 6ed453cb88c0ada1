#!/usr/bin/env bash
# Prepares the numbers corpus, without a download; --help says how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: preprocess_scripts/prepare_numbers.sh --out DIR [options]

Writes numbers in words, English to and from many languages, as a corpus that fairseq-train
reads from DIR/bin. No validation or test number is seen in training in any language.

  --out DIR                      folder to write (required)
  --languages LIST               num2words codes, such as de,fr,es (default: 20 languages)
  --train-pairs-per-language N   training numbers of each language (2000)
  --valid-lines N                validation lines, all languages and both directions (320)
  --test-lines N                 test lines, all languages and both directions (600)
  --max-digits N                 digits of the longest numbers (6)
  --vocab-size N                 most pieces of the joint sentencepiece BPE (100, and 50 for
                                 each language)
  --seed N                       draws the numbers (1)
  --overwrite                    replace a prepared corpus at DIR once the new one is complete
  --debug                        show the stack trace of an error beside its sentence
  --dry-run                      print the command and stop

Example:
  preprocess_scripts/prepare_numbers.sh --out corpora/numbers --languages de,es,fr,id,pl,ru,sv,vi
TEXT
}

if wants_help "$@"; then
  usage
  exit 0
fi
prepare prepare_numbers "$@"
