#!/usr/bin/env bash
# Prepares Multi30k for translation; --help says how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: preprocess_scripts/prepare_multi30k.sh --raw DIR|--download --pair LIST --out DIR [options]

Writes Multi30k (29,000 image captions in en, de, fr and cs; non-commercial research and
education only) as a corpus that fairseq-train reads from DIR/bin.

  --raw DIR            folder with {train,val,test_2016_flickr}.LANGUAGE.gz
  --download           get these files from the corpus's public home instead
  --pair LIST          directions to train, such as en-de or en-de,de-en,en-fr (required)
  --out DIR            folder to write (required)
  --vocab-size N       most pieces of the joint sentencepiece BPE (6000)
  --download-dir DIR   where downloaded files are kept (~/.cache/scomoe/multi30k)
  --mirror URL         another home of the files
  --overwrite          replace a prepared corpus at the --out folder once the new one is complete
  --debug              show the stack trace of an error beside its sentence
  --dry-run            print the command and stop

Example:
  preprocess_scripts/prepare_multi30k.sh --download --pair en-de --out corpora/m30k-en-de
TEXT
}

if wants_help "$@"; then
  usage
  exit 0
fi
prepare prepare_multi30k "$@"
