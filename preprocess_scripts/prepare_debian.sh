#!/usr/bin/env bash
# Prepares Debian's package descriptions for translation; --help says how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: preprocess_scripts/prepare_debian.sh [--raw DIR|--mirror URL] --out DIR [options]

Writes Debian's package descriptions and their translations (fifteen languages to and from
English; each under the licence of its package) as a corpus that fairseq-train reads from
DIR/bin. Without --raw or --mirror, apt gets them from where this machine has its packages from.

  --out DIR            folder to write (required)
  --raw DIR            folder with files such as Translation-en.xz and Translation-de.bz2
  --mirror URL         a mirror, such as http://deb.debian.org/debian
  --suite NAME         of the mirror (stable)
  --components LIST    of the mirror (main); Ubuntu has most packages in main,universe
  --download-dir DIR   where downloaded files are kept (~/.cache/scomoe/debian)
  --directions LIST    such as en-de,de-en, or "all": both ways between English and every
                       language (all)
  --min-sentences N    languages with fewer are not in "all" (1000)
  --max-pairs N        most training pairs of two languages (as many as there are)
  --test-sentences N   English sentences for test (1000)
  --valid-sentences N  English sentences for validation (200)
  --least-languages N  that a held-out sentence exists in, besides English (8)
  --vocab-size N       most pieces of the joint sentencepiece BPE (16000)
  --seed N             of the split (1)
  --overwrite          replace a prepared corpus at the --out folder once the new one is complete
  --debug              show the stack trace of an error beside its sentence
  --dry-run            print the command and stop

Example:
  preprocess_scripts/prepare_debian.sh --out corpora/debian
TEXT
}

if wants_help "$@"; then
  usage
  exit 0
fi
prepare prepare_debian "$@"
