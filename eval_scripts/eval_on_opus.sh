#!/usr/bin/env bash
#SBATCH --job-name=scomoe-eval-on-opus
#SBATCH --nodes=1 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=32
#SBATCH --requeue --open-mode=append --output=%x-%j.log
# Translates and scores the test set of OPUS-100 with a base model; --help says how.
set -euo pipefail
script_name=eval_on_opus
here="$(dirname -- "${BASH_SOURCE[0]}")"
# sbatch runs a copy of this file; Slurm knows where the original is.
[[ -f "$here/lib.sh" ]] ||
  here="$(scontrol show job "$SLURM_JOB_ID" | sed -nE "s|^ *Command=(.*)/$script_name\.sh.*|\1|p")"
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$here/lib.sh"

usage() {
  cat <<TEXT
Usage: [sbatch] eval_scripts/eval_on_opus.sh --save_dir DIR --data DIR [options]

Translates the test set of OPUS-100 with a base model and scores the translations:
BLEU and chrF by sacrebleu, for each direction, and means over directions and resources.

$(evaluation_options)

Example:
  eval_scripts/eval_on_opus.sh --save_dir checkpoints/opus-100-base \\
    --data corpora/opus-100
  eval_scripts/eval_on_opus.sh -d checkpoints/opus-100-base --data corpora/numbers \\
    --cpu --processes 2 -subset valid
TEXT
}

default_precision=fp32 has_lists=true
evaluate "$@"
