#!/usr/bin/env bash
#SBATCH --job-name=scomoe-base-wmt-en-fr
#SBATCH --nodes=1 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8
#SBATCH --requeue --open-mode=append --signal=B:USR1@300 --output=%x-%j.log
# Trains the paper's base models on WMT English-French; --help says how.
set -euo pipefail
script_name=train_base_models_on_wmt-en-fr
here="$(dirname -- "${BASH_SOURCE[0]}")"
# sbatch runs a copy of this file; Slurm knows where the original is.
[[ -f "$here/../lib.sh" ]] ||
  here="$(scontrol show job "$SLURM_JOB_ID" | sed -nE "s|^ *Command=(.*)/$script_name\.sh.*|\1|p")"
# shellcheck source-path=SCRIPTDIR source=../lib.sh
source "$here/../lib.sh"

usage() {
  cat <<TEXT
Usage: [sbatch] train_scripts/scomoe/train_base_models_on_wmt-en-fr.sh --data DIR [options]

Trains scomoe_base (8 experts, made for one node with 8 GPUs)
on WMT English-French with the paper's settings.

  --data DIR        the corpus, as preprocess_scripts/prepare_wmt-en-fr.sh writes it (required)
  --direction A-B   such as fr-en (en-fr)
$(training_options)

Example:
  train_scripts/scomoe/train_base_models_on_wmt-en-fr.sh --data corpora/wmt-en-fr \\
    --scomoe seq+cluster
  train_scripts/scomoe/train_base_models_on_wmt-en-fr.sh --data corpora/m30k --direction en-de \\
    --cpu --gpus 4 --arch scomoe_tiny --max-tokens 1024 --warmup-updates 200 --max-epoch 2
TEXT
}

own_options=(direction)
data='' direction=en-fr save_dir=checkpoints/wmt-en-fr-base nodes=1 gpus=8
parse_training_options "$@"
need_direction "$direction"
need_corpus "$data"
train "${base_settings[@]}" "${wmt_settings[@]}" -s "${direction%-*}" -t "${direction#*-}"
