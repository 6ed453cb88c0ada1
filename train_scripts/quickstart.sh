#!/usr/bin/env bash
# Prepares a small corpus, trains a mixture of experts on it, translates and scores.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'TEXT'
Usage: train_scripts/quickstart.sh [options]

Numbers in words, English to and from 8 languages: prepares the corpus, trains scomoe_tiny
(SCoMoE-Seq with token clustering, 8 experts on a logical layout of 2 nodes x 2 ranks),
translates the test set, scores it, shows ten examples and writes report.html, a page with
figures of all that. Five minutes on two cores, no GPU, no download. What an earlier quickstart wrote is replaced.

  --out DIR        folder to write (quickstart)
  --updates N      training updates (1000)
  --processes N    processes that train and translate; the result is the same (2, or 1 on one core)
  --seed N         draws the numbers, the first weights and the batches (1)
  --dry-run        print the commands and stop

Example:
  train_scripts/quickstart.sh --out /tmp/quickstart
TEXT
}

die() {
  printf 'quickstart: error: %s\n' "$1" >&2
  exit 2
}

out=quickstart updates=1000 seed=1 dry_run=false
processes=$(($(nproc) > 1 ? 2 : 1))
while (($#)); do
  case $1 in
    --help | -h) usage && exit 0 ;;
    --dry-run) dry_run=true && shift && continue ;;
    --out | --updates | --processes | --seed) (($# > 1)) || die "$1 needs a value" ;;
    *) die "unknown option '$1'; --help lists the options" ;;
  esac
  printf -v "${1#--}" '%s' "$2"
  shift 2
done
for number in updates processes seed; do
  [[ ${!number} =~ ^[1-9][0-9]*$ ]] || die "--$number must be a positive number, not '${!number}'"
done

# Trains, with a line every 100 updates; all that fairseq prints goes to train.log.
train() {
  mkdir -p "$model"
  if ! scomoe train "${training[@]}" 2>&1 | tee "$model/train.log" | show_updates; then
    tail -n 20 "$model/train.log" >&2
    die "training failed; the end of $model/train.log is above"
  fi
}

show_updates() {
  local bits='"nll_loss": "([0-9.]+)"' speed='"wps": "([0-9.]+)"' update='"num_updates": "([0-9]+)"'
  sed -unE "s/.*\| train_inner \|.*$bits.*$speed.*$update.*/update \3: \1 bits a token, \2 tokens\/s/p"
}

corpus="$out/corpus" model="$out/model" evaluation="$out/evaluation"
# Each process is one of several, so it must not start a thread for every core.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# Only what a quickstart wrote may be replaced.
if [[ -e $out && ! -f $out/.quickstart ]] && [[ -n "$(ls -A "$out" 2>/dev/null || echo file)" ]]; then
  die "--out ($out) exists and no quickstart wrote it; name another folder"
fi
if ! "$dry_run"; then
  rm -rf "${corpus:?}" "${model:?}" "${evaluation:?}"
  mkdir -p "$out" && touch "$out/.quickstart"
fi

step "1/4 corpus: numbers in words, English to and from 8 languages -> $corpus"
scomoe prepare_numbers --out "$corpus" --languages de,es,fr,id,pl,ru,sv,vi --seed "$seed"

step "2/4 training: SCoMoE-Seq with token clustering, $updates updates on $processes process(es) -> $model"
# Without these four lines it is GShard.
scomoe_seq_args=(
  --scomoe-type seq --ratio1 0.2 --ratio2 0.5
  --token-cluster
)
training=(
  --processes "$processes" "$corpus/bin"
  --user-dir "$repository/user_dir"
  --task scomoe_multilingual_translation --encoder-langtok tgt
  --lang-dict "$corpus/bin/langs.txt" --lang-pairs "$corpus/bin/pairs.txt"
  --arch scomoe_tiny --moe-nodes 2 --moe-ranks-per-node 2 --dropout 0
  --criterion moe_cross_entropy --label-smoothing 0.1
  --optimizer moe_adam --adam-betas '(0.9, 0.98)' --clip-norm 1
  --lr 2e-3 --lr-scheduler polynomial_decay --warmup-updates 150
  --total-num-update "$updates" --max-update "$updates"
  --max-tokens 300 --required-batch-size-multiple 1 --num-workers 0 --cpu --seed "$seed"
  --no-epoch-checkpoints --save-dir "$model"
  --log-format json --log-interval 100 --moe-statistics-interval 25
  "${scomoe_seq_args[@]}"
)
if "$dry_run"; then
  scomoe train "${training[@]}"
else
  train
fi

step "3/4 translating the test set in all 16 directions -> $evaluation"
scomoe evaluate --path "$model/checkpoint_last.pt" --corpus "$corpus" --output "$evaluation" \
  --processes "$processes"

step "4/4 report"
scomoe report --evaluation "$evaluation" --train-log "$model/train.log"
scomoe report "$model" --evaluation "$evaluation" --out "$out/report.html"
"$dry_run" || printf 'quickstart: everything in %d s; open %s in a browser; %s\n' "$SECONDS" \
  "$out/report.html" \
  "translate your own: scomoe-translate --path $model/checkpoint_last.pt -s en -t de"
