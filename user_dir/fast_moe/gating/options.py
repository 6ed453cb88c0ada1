"""The options of gates: how experts are chosen, weighted and kept in balance."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from user_dir.errors import UserError

POLICIES = ("sampling", "random", "all")
GATES = ("softmax", "sigmoid")
BALANCES = ("loss", "bias", "none")
BALANCE_SCOPES = ("rank", "global")


@dataclass(frozen=True)
class GateOptions:
    """How a mixture's gate works. Raises `UserError` that names the flag for a wrong value."""

    kind: str  # of the probabilities
    top1: bool
    use_fp32: bool
    second_policy: str
    normalize_before_dropping: bool
    prioritize: bool
    expert_choice: bool  # in the encoder experts choose tokens
    limit_nodes: int | None
    dropout: float  # share of updates in which tokens stay on their rank
    dropout_skips: bool  # ... or see no expert at all
    balance: str
    balance_scope: str
    bias_update: float
    topology_shares: tuple[float, ...] | None
    z_loss_weight: float

    @staticmethod
    def read(read: Callable[[str, Any], Any]) -> "GateOptions":
        """Read the options by their names in fairseq's namespace.

        Args:
            read: a name's value, or the default where it has none.
        """
        balance, top1 = read("moe_balance", "loss"), read("moe_top1_expert", False)
        # Noise on a biased choice would undo the bias.
        policy = "all" if balance == "bias" else "sampling"
        return GateOptions(
            kind=read("moe_gate", "softmax"),
            top1=top1,
            use_fp32=read("moe_gating_use_fp32", False),
            second_policy=read("moe_second_expert_policy", policy),
            normalize_before_dropping=read("moe_normalize_gate_prob_before_dropping", False),
            prioritize=read("moe_batch_prioritized_routing", False),
            expert_choice=read("moe_expert_choice", False),
            limit_nodes=read("moe_limit_nodes", None),
            dropout=read("moe_gating_dropout", 0.0),
            dropout_skips=read("moe_gating_dropout_skip", False),
            balance=balance,
            balance_scope=read("moe_balance_scope", "rank"),
            bias_update=read("moe_bias_update", 0.001),
            topology_shares=_shares(read("moe_topology_shares", None)),
            z_loss_weight=read("moe_z_loss_wt", 0.0),
        )

    def check(self) -> None:
        """Refuse wrong values, and what cannot go together."""
        for flag, value, choices in (
            ("--moe-gate", self.kind, GATES),
            ("--moe-second-expert-policy", self.second_policy, POLICIES),
            ("--moe-balance", self.balance, BALANCES),
            ("--moe-balance-scope", self.balance_scope, BALANCE_SCOPES),
        ):
            require(value in choices, flag, value, f"one of {', '.join(choices)}")
        require(0 <= self.dropout < 1, "--moe-gating-dropout", self.dropout, "from 0 to below 1")
        require(0 < self.bias_update < inf, "--moe-bias-update", self.bias_update, "positive")
        require(0 <= self.z_loss_weight < inf, "--moe-z-loss-wt", self.z_loss_weight, "0 or more")
        require(
            self.limit_nodes is None or self.limit_nodes >= 1,
            "--moe-limit-nodes",
            self.limit_nodes,
            "at least 1",
        )
        if self.kind == "sigmoid" and self.top1:
            raise UserError(
                "--moe-gate sigmoid does not go with --moe-top1-expert: divided by the sum of the "
                "chosen, a single expert's weight is always 1 and teaches the gate nothing; leave "
                "one of them out"
            )
        if self.balance == "bias" and self.second_policy == "sampling":
            raise UserError(
                "--moe-second-expert-policy sampling does not go with --moe-balance bias, which "
                "its noise would undo; all would do"
            )
        if self.dropout_skips and not self.dropout:
            raise UserError(
                "--moe-gating-dropout-skip needs --moe-gating-dropout, the share of updates; 0.2, "
                "say"
            )
        if self.topology_shares and (self.balance != "loss" or self.balance_scope == "global"):
            raise UserError(
                "--moe-topology-shares shapes the balance loss of each rank: it needs "
                "--moe-balance loss and --moe-balance-scope rank"
            )


def require(holds: bool, flag: str, value: object, wanted: str) -> None:
    """Raises `UserError` that names the flag, its value and what would do."""
    if not holds:
        raise UserError(f"{flag} must be {wanted}, but is {value}")


def _shares(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    are_shares = len(shares) == 3 and all(0 < share < 1 for share in shares)
    if not are_shares or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"--moe-topology-shares ({text}) must be three shares above 0 that add up to 1, of the "
            "own rank, the rest of the node and the other nodes; 0.5,0.3,0.2, say"
        )
    return shares
