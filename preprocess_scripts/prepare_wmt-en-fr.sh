#!/usr/bin/env bash
# Prepares WMT'14 English-French for translation; --help says how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: preprocess_scripts/prepare_wmt-en-fr.sh --raw DIR|--download --out DIR [options]

Writes the corpora of fairseq's WMT'14 English-French recipe (Europarl v7, Common Crawl, UN,
News Commentary v9, Giga-Fr-En; newstest2014 as test set) as a corpus that fairseq-train reads
from DIR/bin. Works in stages in DIR/work; the same command goes on after an interruption.

  --raw DIR                 folder with the recipe's archives, or where they were unpacked
  --download                get the archives from statmt.org (over 6 GB) instead
  --out DIR                 folder to write, work folder included (required)
  --download-dir DIR        where downloaded archives are kept (~/.cache/scomoe/wmt-en-fr)
  --mirror URL              get them from URL/ARCHIVE instead
  --sha256 FILE             checksums that the archives must have, in the form of sha256sum
  --corpora LIST            of europarl,commoncrawl,un,news-commentary,giga (all)
  --directions LIST         en-fr, fr-en or en-fr,fr-en (en-fr)
  --vocab-size N            most pieces of the joint sentencepiece BPE (40000)
  --input-sentence-size N   sentences that the pieces are learned from (10000000)
  --character-coverage X    share of the characters that pieces cover (0.9999)
  --max-pieces N            longer sentences are not trained on (250)
  --ratio X                 nor are pairs with more pieces on one side by this factor (1.5)
  --valid-every N           one in so many lines is for validation (1333)
  --workers N               processes (all processors)
  --keep-work               keep text and pieces in DIR/work at the end
  --overwrite               redo what other options than before change, instead of refusing
  --debug                   show the stack trace of an error beside its sentence
  --dry-run                 print the command and stop

Example:
  preprocess_scripts/prepare_wmt-en-fr.sh --download --out corpora/wmt-en-fr --workers 16
TEXT
}

if wants_help "$@"; then
  usage
  exit 0
fi
prepare prepare_wmt_en_fr "$@"
