#!/usr/bin/env bash
# Prepares GNOME's user documentation as a test set; --help says how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: preprocess_scripts/prepare_gnome.sh --like DIR --out DIR [options]

Writes a test set for models trained on another corpus: sentences of GNOME's user documentation
(41 languages, CC-BY-SA), in the subwords of that corpus. Without --raw, apt gets the
package gnome-user-docs from where this machine has its packages from, and installs nothing.

  --like DIR           prepared folder that the models were trained on (required)
  --out DIR            folder to write (required)
  --raw DIR            folder with LANGUAGE/gnome-help/*.page, such as /usr/share/help
  --download-dir DIR   where the package is kept (~/.cache/scomoe/gnome)
  --directions LIST    such as en-de,de-en (those of the corpus that there are)
  --max-pairs N        most sentence pairs of two languages (500)
  --seed N             of the draw (1)
  --overwrite          replace a prepared corpus at the --out folder
  --debug              show the stack trace of an error beside its sentence
  --dry-run            print the command and stop

Example:
  preprocess_scripts/prepare_gnome.sh --like corpora/debian --out corpora/gnome
TEXT
}

if wants_help "$@"; then
  usage
  exit 0
fi
prepare prepare_gnome "$@"
