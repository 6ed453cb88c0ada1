#!/usr/bin/env bash
#SBATCH --job-name=scomoe-base-dummy
#SBATCH --nodes=1 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=%x-%j.log
# Trains the paper's base model on made data; --help says how.
set -euo pipefail
script_name=dummy_train_base_model
here="$(dirname -- "${BASH_SOURCE[0]}")"
# sbatch runs a copy of this file; Slurm knows where the original is.
[[ -f "$here/../lib.sh" ]] ||
  here="$(scontrol show job "$SLURM_JOB_ID" | sed -nE "s|^ *Command=(.*)/$script_name\.sh.*|\1|p")"
# shellcheck source-path=SCRIPTDIR source=../lib.sh
source "$here/../lib.sh"

usage() {
  cat <<TEXT
Usage: [sbatch] train_scripts/scomoe/dummy_train_base_model.sh [options]

Trains scomoe_base (8 experts, made for one node with 8 GPUs)
for a while on made sentences, without a corpus, saves no checkpoint, and prints tokens a second
and bytes by reach.

$(dummy_options)
$(training_options)

Example:
  train_scripts/scomoe/dummy_train_base_model.sh --scomoe seq+cluster
  train_scripts/scomoe/dummy_train_base_model.sh --cpu --gpus 4 --arch scomoe_tiny \\
    --max-update 20 --sentences 2000 --vocab-size 1000 --max-tokens 1024 --update-freq 1
TEXT
}

save_dir=checkpoints/dummy-base nodes=1 gpus=8
train_on_made_data base "$@"
