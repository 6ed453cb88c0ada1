"""The logical ranks that a model is laid out for."""

from dataclasses import dataclass

from user_dir.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Logical accelerators: part of the model, saved with it, independent of what runs it."""

    num_nodes: int
    ranks_per_node: int

    def __post_init__(self) -> None:
        for flag, value in (
            ("--moe-nodes", self.num_nodes),
            ("--moe-ranks-per-node", self.ranks_per_node),
        ):
            if value < 1:
                raise UserError(f"{flag} must be at least 1, but is {value}")

    @property
    def num_ranks(self) -> int:
        return self.num_nodes * self.ranks_per_node

    def __str__(self) -> str:
        return f"{self.num_nodes} nodes x {self.ranks_per_node} ranks"
