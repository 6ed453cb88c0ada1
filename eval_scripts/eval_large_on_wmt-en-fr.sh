#!/usr/bin/env bash
#SBATCH --job-name=scomoe-eval-large-on-wmt-en-fr
#SBATCH --nodes=1 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=32
#SBATCH --requeue --open-mode=append --output=%x-%j.log
# Translates and scores the test set of WMT English-French with a large model; --help says how.
set -euo pipefail
script_name=eval_large_on_wmt-en-fr
here="$(dirname -- "${BASH_SOURCE[0]}")"
# sbatch runs a copy of this file; Slurm knows where the original is.
[[ -f "$here/lib.sh" ]] ||
  here="$(scontrol show job "$SLURM_JOB_ID" | sed -nE "s|^ *Command=(.*)/$script_name\.sh.*|\1|p")"
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$here/lib.sh"

usage() {
  cat <<TEXT
Usage: [sbatch] eval_scripts/eval_large_on_wmt-en-fr.sh --save_dir DIR --data DIR [options]

Translates the test set of WMT English-French with a large model and scores the translations:
BLEU and chrF by sacrebleu, for each direction.

$(evaluation_options)

Example:
  sbatch eval_scripts/eval_large_on_wmt-en-fr.sh --save_dir checkpoints/wmt-en-fr-large \\
    --data corpora/wmt-en-fr
  eval_scripts/eval_large_on_wmt-en-fr.sh -d checkpoints/wmt-en-fr-large --data corpora/m30k \\
    --cpu --processes 2 -subset valid
TEXT
}

default_precision=fp16 has_lists=false
evaluate "$@"
