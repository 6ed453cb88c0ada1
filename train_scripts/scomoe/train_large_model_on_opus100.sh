#!/usr/bin/env bash
#SBATCH --job-name=scomoe-large-opus-100
#SBATCH --nodes=4 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=%x-%j.log
# Trains the paper's large model on OPUS-100; --help says how.
set -euo pipefail
script_name=train_large_model_on_opus100
here="$(dirname -- "${BASH_SOURCE[0]}")"
# sbatch runs a copy of this file; Slurm knows where the original is.
[[ -f "$here/../lib.sh" ]] ||
  here="$(scontrol show job "$SLURM_JOB_ID" | sed -nE "s|^ *Command=(.*)/$script_name\.sh.*|\1|p")"
# shellcheck source-path=SCRIPTDIR source=../lib.sh
source "$here/../lib.sh"

usage() {
  cat <<TEXT
Usage: [sbatch] train_scripts/scomoe/train_large_model_on_opus100.sh --data DIR [options]

Trains scomoe_large (32 experts, made for 4 nodes with 8 GPUs each)
on all directions of OPUS-100 with the paper's settings.

  --data DIR        the corpus, as preprocess_scripts/multilingual_preprocess.sh writes it
                    (required)
$(training_options)

Example:
  sbatch train_scripts/scomoe/train_large_model_on_opus100.sh --data corpora/opus-100 \\
    --scomoe feat+cluster
  train_scripts/scomoe/train_large_model_on_opus100.sh --data corpora/numbers \\
    --cpu --nodes 2 --gpus 2 --arch scomoe_tiny --max-tokens 300 \\
    --lr 4e-3 --warmup-updates 150 --max-epoch 5
TEXT
}

data='' save_dir=checkpoints/opus-100-large nodes=4 gpus=8
parse_training_options "$@"
need_corpus "$data"
train "${large_settings[@]}" "${opus_settings[@]}" \
  --lang-dict "$data/bin/langs.txt" --lang-pairs "$(training_pairs)"
