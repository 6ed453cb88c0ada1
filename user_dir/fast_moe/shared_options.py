"""The options of what stands beside experts or masks their outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from user_dir.errors import UserError
from user_dir.fast_moe.gating.options import require


@dataclass(frozen=True)
class SharedOptions:
    """A shared expert, conditional routing, masks. `UserError` names the flag of a wrong value."""

    ffn_dim: int | None  # None: no shared expert, or under conditional routing the stack's width
    conditional: bool
    gate_dropout: float
    budget: float
    budget_weight: float
    expert_masking: float
    final_masking: float

    @staticmethod
    def read(read: Callable[[str, Any], Any]) -> "SharedOptions":
        """Read the options by their names in fairseq's namespace; see `GateOptions.read`."""
        return SharedOptions(
            ffn_dim=read("moe_shared_expert_ffn_dim", None),
            conditional=read("moe_cmr", False),
            gate_dropout=read("moe_cmr_dropout", 0.0),
            budget=read("moe_cmr_budget", 0.5),
            budget_weight=read("moe_cmr_loss_wt", 0.1),
            expert_masking=read("moe_eom", 0.0),
            final_masking=read("moe_fom", 0.0),
        )

    def check(self) -> None:
        """Refuse wrong values, and what has nothing to work on."""
        for flag, share in (
            ("--moe-eom", self.expert_masking),
            ("--moe-fom", self.final_masking),
            ("--moe-cmr-dropout", self.gate_dropout),
        ):
            require(0 <= share < 1, flag, share, "from 0 to below 1")
        require(0 <= self.budget <= 1, "--moe-cmr-budget", self.budget, "a share from 0 to 1")
        require(0 <= self.budget_weight < inf, "--moe-cmr-loss-wt", self.budget_weight, "0 or more")
        require(
            self.ffn_dim is None or self.ffn_dim >= 1,
            "--moe-shared-expert-ffn-dim",
            self.ffn_dim,
            "at least 1",
        )
        if self.gate_dropout and not self.conditional:
            raise UserError("--moe-cmr-dropout needs --moe-cmr, whose gate it is about")
