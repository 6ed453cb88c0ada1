# Shared by the scripts of this folder; source it, do not run it.
# shellcheck shell=bash

# shellcheck source-path=SCRIPTDIR source=../train_scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../train_scripts/lib.sh"

# evaluation_options: the part of --help that all eval scripts have.
evaluation_options() {
  cat <<TEXT
  --save_dir, --save-dir, -d DIR   where the model was trained, or a checkpoint (required)
  --data DIR                       the prepared corpus (required)
  -subset, --subset, -s NAME       test or valid (test)
  -capacity_factor, --capacity_factor, --capacity-factor, -c F
                                   slots of an expert, as a share of the tokens; 0: nothing is
                                   dropped, -1: as in training (as the checkpoint says: 0)
  --r1, -r1, --ratio1 A            share that stays on its rank (Seq: nothing is kept near; Feat: as trained)
  --r2, -r2, --ratio2 B            share that stays in its node (likewise)
  --checkpoint NAME                file in --save_dir (checkpoint_best.pt; checkpoint_last.pt where
                                   there is none)
  --output, -o DIR                 translations and scores (evaluation/NAME.SUBSET in --save_dir)
  --directions LIST                such as en-de,de-en (what the checkpoint translates; OPUS-100:
                                   all that have such a set)
  --processes N                    processes that share the lines (one for each GPU; 1 on CPUs)
  --precision P                    fp16, bf16 or fp32 ($default_precision; fp32 with --cpu)
  --cpu                            leave GPUs alone
  --dry-run                        print the final command and stop
  anything else                    goes to scomoe-evaluate: --beam 4, --spread-experts, --overwrite

Started again, it goes on with what is missing. In a Slurm job of several nodes each node translates
its share of the directions.
TEXT
}

# What a script may set before.
default_precision=fp32
has_lists=false # whether the corpus lists the directions that have a test set; not all of them do

# evaluate ARGUMENT...: does it all.
evaluate() {
  parse_evaluation_options "$@"
  [[ $directions ]] || directions=$(listed_directions)
  if in_parts; then
    evaluate_part
  elif ! "$dry_run" && on_several_nodes; then
    evaluate_on_nodes "$@"
  else
    evaluate_here "$output" "$directions"
  fi
}

parse_evaluation_options() {
  save_dir='' data='' subset=test capacity='' r1='' r2='' checkpoint='' output=''
  directions='' processes='' precision='' on_cpu=false dry_run=false
  evaluate_options=()
  while (($#)); do
    case $1 in
      --help | -h) usage && exit 0 ;;
      --dry-run) dry_run=true ;;
      --cpu) on_cpu=true ;;
      --save_dir | --save-dir | -save_dir | -d) need_value "$@" && save_dir=$2 && shift ;;
      --data) need_value "$@" && data=$2 && shift ;;
      -subset | --subset | -s) need_value "$@" && subset=$2 && shift ;;
      -capacity_factor | --capacity_factor | --capacity-factor | -c)
        need_value "$@" && capacity=$2 && shift ;;
      --r1 | -r1 | --ratio1) need_value "$@" && r1=$2 && shift ;;
      --r2 | -r2 | --ratio2) need_value "$@" && r2=$2 && shift ;;
      --checkpoint) need_value "$@" && checkpoint=$2 && shift ;;
      --output | -o) need_value "$@" && output=$2 && shift ;;
      --directions) need_value "$@" && directions=$2 && shift ;;
      --processes) need_value "$@" && processes=$2 && shift ;;
      --precision) need_value "$@" && precision=$2 && shift ;;
      *) evaluate_options+=("$1") ;;
    esac
    shift
  done
  if [[ ! $precision ]]; then
    if "$on_cpu"; then precision=fp32; else precision=$default_precision; fi
  fi
  check_evaluation_options
}

check_evaluation_options() {
  local name
  [[ $save_dir ]] || die "--save_dir is needed: the folder of a training run, or a checkpoint"
  need_corpus "$data"
  [[ $subset == @(test|valid) ]] || die "-subset must be test or valid, not '$subset'"
  [[ $precision == @(fp16|bf16|fp32) ]] ||
    die "--precision must be fp16, bf16 or fp32, not '$precision'"
  need_number -capacity_factor "$capacity"
  need_number --r1 "$r1"
  need_number --r2 "$r2"
  need_positive processes
  find_checkpoint
  name=$(basename -- "$path" .pt)
  output=${output:-$(dirname -- "$path")/evaluation/$name.$subset}
  # A name that begins with a dash would be taken for an option.
  path=$(plain_name "$path") data=$(plain_name "$data") output=$(plain_name "$output")
}

plain_name() {
  case $1 in
    -*) printf './%s\n' "$1" ;;
    *) printf '%s\n' "$1" ;;
  esac
}

# listed_directions: those of the corpus that have such a set, or else, where there are nodes to
# share them out to, all; nothing where it has no list.
listed_directions() {
  local list="$data/bin/${subset}_pairs.txt"
  if ! "$has_lists"; then return; fi
  if [[ ! -f $list ]] && have_several_nodes; then list="$data/bin/pairs.txt"; fi
  if [[ -f $list ]]; then cat -- "$list"; fi
}

need_number() {
  [[ ! $2 || $2 =~ ^-?([0-9]+\.?[0-9]*|\.[0-9]+)$ ]] || die "$1 must be a number, not '$2'"
}

# Sets `path`.
find_checkpoint() {
  path=$save_dir
  [[ -f $save_dir ]] || path="$save_dir/${checkpoint:-checkpoint_best.pt}"
  [[ -f $path || $checkpoint ]] || path="$save_dir/checkpoint_last.pt"
  [[ -f $path ]] ||
    die "--save_dir ($save_dir): no ${checkpoint:-checkpoint_best.pt or checkpoint_last.pt} there"
}

# evaluate_here OUTPUT DIRECTIONS: translates and scores; no directions: all of the checkpoint.
evaluate_here() {
  local model_overrides
  local -a arguments=(--path "$path" --corpus "$data" --subset "$subset" --output "$1")
  [[ ! $2 ]] || arguments+=(--directions "$2")
  model_overrides=$(overrides) # a command of its own, so that its failure ends the script
  arguments+=(--processes "$(evaluating_processes)" --model-overrides "$model_overrides")
  [[ $precision == fp32 ]] || arguments+=("--$precision")
  ! "$on_cpu" || arguments+=(--cpu)
  # Each process is one of several, so it must not start a thread for every core.
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
  scomoe evaluate "${arguments[@]}" "${evaluate_options[@]}"
}

evaluating_processes() {
  local count=${processes:-1}
  if [[ ! $processes ]] && ! "$on_cpu" && ! "$dry_run"; then
    count=$(count_gpus)
  fi
  printf '%d\n' "$((count > 0 ? count : 1))"
}

# overrides: --model-overrides, which depend on how the checkpoint was trained.
overrides() {
  local dry_run=false
  local -a options=(--path "$path")
  [[ ! $capacity ]] || options+=(--capacity="$capacity")
  [[ ! $r1 ]] || options+=(--r1="$r1")
  [[ ! $r2 ]] || options+=(--r2="$r2")
  scomoe evaluation_overrides "${options[@]}"
}

# --- several nodes

# on_several_nodes: a single direction is not shared out.
on_several_nodes() {
  have_several_nodes && [[ $directions == *,* ]]
}

have_several_nodes() {
  under_slurm && ((${SLURM_JOB_NUM_NODES:-1} > 1))
}

# in_parts: whether this is one of the tasks that evaluate_on_nodes starts.
in_parts() {
  [[ ${EVALUATION_PARTS:-} ]]
}

# Lets every node translate its share, then puts them together: the last call finds all
# translations there and scores them.
evaluate_on_nodes() {
  local count=$SLURM_JOB_NUM_NODES part
  step "$count nodes, each with its share of the directions"
  export EVALUATION_PARTS=$count SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
  srun --nodes="$count" --ntasks="$count" --ntasks-per-node=1 --kill-on-bad-exit=1 \
    bash "$repository/eval_scripts/$script_name.sh" \
    "$@" --directions "$directions"
  mkdir -p -- "$output"
  for ((part = 0; part < count; part++)); do
    gather_part "$part" "$count"
  done
  evaluate_here "$output" "$directions"
}

# gather_part NUMBER COUNT: copies what a task has translated; nothing else that lies there.
gather_part() {
  local from="$output.part-$1" direction
  local -a share
  set_share "$1" "$2"
  for direction in "${share[@]}"; do
    cp -- "$from/settings.json" "$from/$subset.$direction.${direction#*-}" "$output"
  done
}

evaluate_part() {
  local -a share
  set_share "$SLURM_PROCID" "$EVALUATION_PARTS"
  ((${#share[@]})) || return 0
  evaluate_here "$output.part-$SLURM_PROCID" "$(IFS=, && printf '%s' "${share[*]}")"
}

# set_share NUMBER COUNT: puts every COUNT-th direction, from NUMBER on, into the array `share`.
set_share() {
  local -a all
  local index
  IFS=, read -ra all <<<"$directions"
  share=()
  for ((index = $1; index < ${#all[@]}; index += $2)); do
    share+=("${all[index]// /}")
  done
}
