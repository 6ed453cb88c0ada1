# Shared by the scripts of this folder and of eval_scripts; source it, do not run it.
# shellcheck shell=bash

repository="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"

# step TEXT: a headline before what a step prints itself.
step() {
  printf '\n== %s\n' "$1"
}

# die TEXT: ends the script with a message that names it.
die() {
  printf '%s: error: %s\n' "${script_name:-$(basename -- "$0" .sh)}" "$1" >&2
  exit 2
}

# run COMMAND ARGUMENT...: runs it, or prints it under --dry-run.
run() {
  if "${dry_run:-false}"; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# scomoe NAME ARGUMENT...: the command user_dir.cli.NAME, wherever the user is.
scomoe() {
  local -a command
  set_command "$@"
  run "${command[@]}"
}

# set_command NAME ARGUMENT...: puts that command into the array `command`. The repository's own
# environment is taken where it exists. -P: a user_dir in the user's folder is not ours.
set_command() {
  local module="$1"
  shift
  command=(
    env "PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}"
    "$(python_of_repository)" -P -m "user_dir.cli.$module" "$@"
  )
}

python_of_repository() {
  local python="$repository/.venv/bin/python"
  [[ -x "$python" ]] || python=python3
  printf '%s\n' "$python"
}

# count_gpus: how many GPUs torch sees here.
count_gpus() {
  "$(python_of_repository)" -c 'import torch; print(torch.cuda.device_count())'
}

# --- options

# need_value OPTION... : the rest of the command line must go on after its first word.
need_value() {
  (($# > 1)) || die "$1 needs a value"
}

# need_positive NAME...: options, by the names of their variables; empty ones were not given.
need_positive() {
  local name
  for name in "$@"; do
    [[ ! ${!name} || ${!name} =~ ^[1-9][0-9]*$ ]] ||
      die "--${name//_/-} must be a positive number, not '${!name}'"
  done
}

# need_corpus DIR: a prepared folder.
need_corpus() {
  [[ $1 ]] || die "--data is needed: a prepared folder, as docs/corpora.md describes it"
  "${dry_run:-false}" || [[ -d $1/bin ]] ||
    die "--data ($1) has no folder bin; name a prepared folder, as docs/corpora.md describes it"
}

need_direction() {
  [[ $1 =~ ^[A-Za-z][A-Za-z0-9_]*-[A-Za-z][A-Za-z0-9_]*$ ]] ||
    die "--direction must be two languages joined by a hyphen, like en-fr, not '$1'"
}

# --- training

own_options=()

# What SCoMoE adds to GShard; shares of features are powers of two.
scomoe_seq_args=(--scomoe-type seq --ratio1 0.2 --ratio2 0.5)
scomoe_feat_args=(--scomoe-type feat --ratio1 0.25 --ratio2 0.5)
cluster_args=(--token-cluster --cluster-by scores --temperature 0.5)

# The paper's settings, and those of its release's scripts where the paper says nothing.
common_settings=(
  --optimizer moe_adam --adam-betas '(0.9, 0.98)'
  --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000
  --max-tokens 4096 --max-epoch 10 --required-batch-size-multiple 1
  --encoder-normalize-before --decoder-normalize-before
  --criterion moe_cross_entropy --moe-gate-loss-combine-method sum
  --moe-second-expert-policy all --moe-gating-use-fp32 --moe-batch-prioritized-routing
  --moe-normalize-expert-grad sqrt_world_size
  --log-format json --log-interval 100
)
# shellcheck disable=SC2034 # as the next ones, read by the scripts
base_settings=(--arch scomoe_base --clip-norm 1.0 --capacity-factor 1.0)
# shellcheck disable=SC2034
large_settings=(--arch scomoe_large --clip-norm 0.5 --capacity-factor 1.25 --update-freq 4)
wmt_settings=(
  --task scomoe_translation --share-decoder-input-output-embed
  --dropout 0.3 --weight-decay 0.0001 --moe-gate-loss-wt 0.01
  --save-interval-updates 2000 --keep-interval-updates 2 --keep-last-epochs 5
)
# shellcheck disable=SC2034
opus_settings=(
  --task scomoe_multilingual_translation --share-all-embeddings
  --encoder-langtok tgt --sampling-method temperature --sampling-temperature 5
  --dropout 0.1 --attention-dropout 0.1 --moe-gate-loss-wt 0.1
  --save-interval-updates 10000 --keep-interval-updates 5 --no-epoch-checkpoints
)

# training_options: the part of --help that all training scripts have.
training_options() {
  cat <<TEXT
  --save-dir DIR    checkpoints and train.log; the same command goes on from there
                    ($save_dir)
  --scomoe TYPE     none (GShard), seq, feat, seq+cluster or feat+cluster (none)
  --nodes N         nodes of the layout ($nodes; under Slurm the job's)
  --gpus N          GPUs of a node of the layout ($gpus; under Slurm the job's tasks of a node)
  --cpu             run on CPUs
  --processes N     processes of this machine that host the layout; their number changes nothing
                    but the speed (one for each GPU, or core); not under Slurm
  --precision P     fp16, bf16 or fp32 (fp16; fp32 with --cpu)
  --dry-run         print the final command and stop
  anything else     goes to fairseq-train, last, so that it wins: --max-update 100, --lr 1e-3,
                    --arch scomoe_tiny, "\${scomoe_seq_args[@]}"

Under Slurm (sbatch, or within salloc) srun starts one process for each task of the job. When time
is nearly up or the job is preempted, training saves and the job is requeued; it goes on from its
last checkpoint.
TEXT
}

# parse_training_options ARGUMENT...: sets variables from the command line. The script has set the
# defaults before: data, save_dir, nodes, gpus, and those of its own options, which are the names in
# own_options.
parse_training_options() {
  scomoe_type=none processes='' precision='' on_cpu=false dry_run=false
  layout_given=false
  fairseq_options=()
  while (($#)); do
    case $1 in
      --help | -h) usage && exit 0 ;;
      --dry-run) dry_run=true ;;
      --cpu) on_cpu=true ;;
      --data) need_value "$@" && data=$2 && shift ;;
      --save-dir) need_value "$@" && save_dir=$2 && shift ;;
      --scomoe) need_value "$@" && scomoe_type=$2 && shift ;;
      --nodes) need_value "$@" && nodes=$2 layout_given=true && shift ;;
      --gpus) need_value "$@" && gpus=$2 layout_given=true && shift ;;
      --processes) need_value "$@" && processes=$2 && shift ;;
      --precision) need_value "$@" && precision=$2 && shift ;;
      *)
        if is_own_option "$1"; then
          need_value "$@"
          set_option "$1" "$2"
          shift
        else
          fairseq_options+=("$1")
        fi
        ;;
    esac
    shift
  done
  check_training_options
}

is_own_option() {
  [[ " ${own_options[*]/#/--} " == *" $1 "* ]]
}

# set_option OPTION VALUE: --vocab-size sets vocab_size.
set_option() {
  local name=${1#--}
  printf -v "${name//-/_}" '%s' "$2"
}

check_training_options() {
  need_positive nodes gpus processes
  if under_slurm; then
    [[ ! $processes ]] ||
      die "--processes is for a run without Slurm; here srun starts one for each task of the job"
  fi
  if [[ ! $precision ]]; then
    if "$on_cpu"; then precision=fp32; else precision=fp16; fi
  fi
  [[ $precision == @(fp16|bf16|fp32) ]] ||
    die "--precision must be fp16, bf16 or fp32, not '$precision'"
  [[ $precision != fp16 ]] || ! "$on_cpu" ||
    die "--precision fp16 with --cpu would be very slow; use bf16 or fp32"
  [[ $scomoe_type == @(none|seq|feat|seq+cluster|feat+cluster) ]] ||
    die "--scomoe must be none, seq, feat, seq+cluster or feat+cluster, not '$scomoe_type'"
}

# train SETTING...: trains with the script's settings and what the command line added.
train() {
  local -a command arguments=()
  need_gpu
  under_slurm || arguments+=(--processes "$(processes_here)")
  arguments+=("$data/bin" --user-dir "$repository/user_dir" --save-dir "$save_dir")
  arguments+=("${common_settings[@]}" "$@")
  add_layout
  add_scomoe
  add_precision
  set_command train "${arguments[@]}" "${fairseq_options[@]}"
  "$dry_run" || mkdir -p -- "$save_dir"
  # Each process is one of several, so it must not start a thread for every core.
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
  if under_slurm; then
    # srun no longer takes it from the job by itself.
    [[ ! ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
    command=(srun --kill-on-bad-exit=1 "${command[@]}")
  fi
  if "$dry_run"; then
    run "${command[@]}"
  else
    run_until_done "$save_dir/train.log" "${command[@]}"
  fi
}

# training_pairs: the list of directions to train; fairseq validates in all that it trains, and some
# of OPUS-100 have no validation set.
training_pairs() {
  local list="$data/bin/valid_pairs.txt"
  [[ -f $list ]] || list="$data/bin/pairs.txt"
  printf '%s\n' "$list"
}

need_gpu() {
  "$on_cpu" || "$dry_run" || (($(count_gpus) > 0)) ||
    die "there is no GPU here; add --cpu, or submit the script with sbatch"
}

# Under Slurm the layout is what runs unless it was asked for.
add_layout() {
  if "$layout_given" || ! under_slurm; then
    arguments+=(--moe-nodes "$nodes" --moe-ranks-per-node "$gpus")
  fi
}

add_scomoe() {
  case $scomoe_type in
    seq*) arguments+=("${scomoe_seq_args[@]}") ;;
    feat*) arguments+=("${scomoe_feat_args[@]}") ;;
  esac
  [[ $scomoe_type != *cluster ]] || arguments+=("${cluster_args[@]}")
}

add_precision() {
  [[ $precision == fp32 ]] || arguments+=("--$precision" --fp16-no-flatten-grads)
  ! "$on_cpu" || arguments+=(--cpu)
}

# processes_here: one for each GPU, or core, as far as they divide the ranks among them.
processes_here() {
  local ranks=$((nodes * gpus)) count
  count=$processes
  if [[ ! $count ]]; then
    if "$on_cpu"; then
      count=$(env -u OMP_NUM_THREADS nproc) # which it would take for the cores
    elif "$dry_run"; then
      count=$gpus
    else
      count=$(count_gpus)
    fi
    ((count <= ranks)) || count=$ranks
    while ((ranks % count)); do count=$((count - 1)); done
  fi
  printf '%d\n' "$count"
}

# --- Slurm

# under_slurm: in a job, but not in a task that srun started already.
under_slurm() {
  [[ ${SLURM_JOB_ID:-} && ! ${SLURM_STEP_ID:-} ]]
}

# run_until_done LOG COMMAND...: runs it and adds what it prints to LOG; a signal to this script
# reaches it. Ctrl-C asks it to save and end, a second one ends it; then the status is 130. Under Slurm a signal means that the time is nearly up or the job is preempted: when
# the command has saved and ended, the job is requeued.
run_until_done() {
  local log="$1" output writer pid status
  shift
  signalled='' interrupted=false pressed=0
  exec {output}> >(exec tee --ignore-interrupts --append -- "$log")
  writer=$!
  "$@" >&"$output" 2>&1 &
  pid=$!
  exec {output}>&-
  trap 'pass_on USR1' USR1
  trap 'pass_on TERM' TERM
  trap press INT # which a background process ignores
  while :; do
    status=0
    wait "$pid" || status=$?
    # A trap ends `wait`, not the command.
    if ! "$interrupted" || ((status <= 128)); then break; fi
    interrupted=false
  done
  trap - USR1 TERM INT
  wait "$writer"
  ((pressed == 0)) || return 130
  [[ ! $signalled ]] || ! under_slurm || requeue
  return "$status"
}

press() {
  pressed=$((pressed + 1))
  if ((pressed == 1)); then
    printf '%s: interrupted: saving, then ending; Ctrl-C again ends at once\n' "$script_name" >&2
    pass_on USR1
  else
    pass_on TERM
  fi
}

# pass_on SIGNAL: under Slurm always as USR1: training saves then as well, and at TERM srun would
# kill its tasks.
pass_on() {
  local signal=$1
  signalled=$1 interrupted=true
  ! under_slurm || signal=USR1
  kill -s "$signal" "$pid" 2>/dev/null || true
}

requeue() {
  # TERM comes to a job that its user cancels as well.
  if scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q ' JobState=CANCELLED '; then
    return
  fi
  printf '%s: got SIG%s; job %s is requeued\n' "$script_name" "$signalled" "$SLURM_JOB_ID" >&2
  scontrol requeue "$SLURM_JOB_ID" || true  # a preempted job may be requeued by Slurm already
}

# --- training on made data

# dummy_options: what the scripts for made data have beyond the others, for --help.
dummy_options() {
  cat <<TEXT
  --data DIR        folder for the made data (data in --save-dir)
  --sentences N     made sentence pairs (100000)
  --vocab-size N    different tokens in them (32000)
  --length A-B      tokens of a sentence, drawn evenly (10-50)
TEXT
}

# train_on_made_data SIZE ARGUMENT...: trains with the settings of SIZE, 200 updates unless
# --max-update says otherwise, and reports.
train_on_made_data() {
  local -n size_settings="$1_settings"
  shift
  own_options=(sentences vocab-size length)
  sentences=100000 vocab_size=32000 length=10-50 data=''
  parse_training_options "$@"
  data=${data:-$save_dir/data}
  "$dry_run" || rm -f -- "$save_dir/train.log" # whose figures are reported
  scomoe make_dummy_corpus --out "$data" --sentences "$sentences" --vocab-size "$vocab_size" \
    --length "$length"
  train "${size_settings[@]}" "${wmt_settings[@]}" -s en -t fr \
    --no-save --disable-validation --max-epoch 0 --max-update 200 --log-interval 10
  "$dry_run" || report_speed
}

# report_speed: tokens a second and bytes by reach, medians over the log's intervals.
report_speed() {
  local log="$save_dir/train.log" name
  printf '\n%-18s %12s\n' '' median
  printf '%-18s %12s\n' 'tokens a second' "$(median_of wps "$log")"
  for name in rank node between; do
    printf '%-18s %12s   bytes of a forward pass, %s\n' "moe_bytes_$name" \
      "$(median_of "moe_bytes_$name" "$log")" "$(reach_of "$name")"
  done
}

reach_of() {
  case $1 in
    rank) echo 'to the own rank' ;;
    node) echo 'within the node' ;;
    between) echo 'between nodes' ;;
  esac
}

# median_of NAME LOG: of a figure in the json records of updates.
median_of() {
  sed -nE "s/.*\| train_inner \|.*\"$1\": \"?([0-9.e+-]+).*/\1/p" "$2" | sort -g |
    awk '{ value[NR] = $1 } END { if (NR) print value[int((NR + 1) / 2)]; else print "not logged" }'
}
