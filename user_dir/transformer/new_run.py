"""What the options of a new run come to, and what hardly anybody means; needs no torch."""

from argparse import Namespace

from user_dir.errors import UserError

# fairseq's --lr where none is given, and what learns nothing at it.
_LR_NOT_GIVEN, _ADAM = [0.25], ("adam", "moe_adam")


def choose_clusters(args: Namespace) -> None:
    """Let the clusters of a new run go by a table of similar tokens if nothing else is asked for.

    It is what learns best (docs/results.md). Checkpoints that are older than `--cluster-by` have
    learned scores, which `MoeConfig` goes on to take where an option is missing.
    """
    given = vars(args).get
    if "moe_layout_given" in vars(args) or not given("token_cluster"):
        return
    learns = given("gate_type") is not None or given("temperature") is not None
    has_tables = str(given("task")).startswith("scomoe_")
    if given("cluster_by") is None:
        args.cluster_by = "token" if has_tables and not learns else "scores"
    if given("cluster_table") is None:
        args.cluster_table = "similar"


def check_new_run(args: Namespace) -> None:
    """Refuse what hardly anybody means; what is trained already is used as it was trained."""
    given = vars(args).get
    if "moe_layout_given" in vars(args):  # the options come from a checkpoint
        return
    criterion = given("criterion")
    if criterion not in (None, "moe_cross_entropy") and not given("criterion_without_balance"):
        raise UserError(
            f"--criterion {criterion} trains the experts without balance loss and metrics; use "
            "--criterion moe_cross_entropy, or add --criterion-without-balance if that is meant"
        )
    is_near = given("scomoe_type") in ("seq", "feat") or given("token_cluster")
    for name in "ratio1", "ratio2":
        if given(name) is not None and not is_near:
            raise UserError(
                f"--{name} {given(name)} has no effect without --scomoe-type seq or --scomoe-type "
                f"feat; add one of them, or leave --{name} out"
            )
    balance = given("moe_balance")
    if balance in ("bias", "none") and given("moe_balance_scope") == "global":
        raise UserError(
            f"--moe-balance-scope global is about the balance loss, which --moe-balance {balance} "
            "leaves out; leave one of them out"
        )
    if given("fp16") and (given("cpu") or not _has_gpu()):
        raise UserError("--fp16 is very slow on a CPU; use --bf16, or neither")
    if given("optimizer") in _ADAM and list(given("lr") or ()) == _LR_NOT_GIVEN:
        raise UserError(
            "--lr is 0.25, fairseq's value where none is given, at which Adam does not learn; add "
            "--lr, such as 3e-3 for a small model or 5e-4 for a large one"
        )


def _has_gpu() -> bool:
    import torch  # which takes a second: options are read without it

    return torch.cuda.is_available()
