"""The tokens of one reach on their way to the experts and back, in four steps.

Shape suffixes: V hosted ranks, T tokens of a rank, L experts served here, M rows, D width.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from user_dir.fast_moe.exchange.all_to_all import Line
from user_dir.fast_moe.exchange.plan import ExchangePlan


class Trip(ABC):
    """Send the routed tokens of one reach, let the experts work, collect what they answer.

    Every process must take the steps of all its trips in the same order. Those that start, `send`
    and `answer`, communicate without waiting, but for counts that travel ahead of rows; those that
    finish, `arrive` and `collect`, wait.

    Args:
        plan: who swaps rows with whom, when tokens leave.
        experts: what works on them, called with rows and `counts`.
    """

    # Rows of each expert served here, on the host, or on a device where that must not wait for
    # them; None: equally many.
    counts: list[int] | Tensor | None = None

    def __init__(self, plan: ExchangePlan, experts: nn.Module):
        self.plan, self.experts = plan, experts

    @abstractmethod
    def send(self, line: Line) -> None:
        """The tokens leave."""

    @abstractmethod
    def arrive(self, line: Line) -> Tensor:
        """The rows that the experts of this process are to work on: (L, M, D), or (M, D) by
        expert where there are `counts`."""

    @abstractmethod
    def answer(self, outputs: Tensor, line: Line) -> None:
        """The experts' outputs leave, shaped like what `arrive` gave."""

    @abstractmethod
    def collect(self, line: Line) -> Tensor:
        """The outputs of each token, added up by weight, (V, T, D); 0 for tokens without expert."""

    @abstractmethod
    def sent_bytes(self) -> tuple[int, int, int]:
        """There and back: within ranks, within nodes, between nodes. After `collect`."""
