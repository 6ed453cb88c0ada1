"""The real tokens of a batch, rank by rank: what a stack's MoE layers work on.

Shape suffixes: B sentences, S positions of a sentence, V hosted ranks, T tokens of a rank
(padded to the largest rank anywhere), N = S·B positions of the (S, B, D) activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from user_dir.fast_moe.gathers import gather_rows
from user_dir.fast_moe.layout.processes import agree_on_maximum
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.tokens.keys import TokenKeys
from user_dir.fast_moe.tokens.noise import NoiseKey


@dataclass(frozen=True)
class Sizes:
    """How many tokens there are in a pass: on each hosted rank, and at most on any rank."""

    counts: tuple[int, ...]  # real tokens of each hosted rank
    quotas: dict[Reach, tuple[int, ...]]  # of these, those of each reach
    num_tokens: int  # the largest count of any rank of any process
    largest_quotas: dict[Reach, int]  # likewise


@dataclass(frozen=True)
class TokenDirections:
    """The translation direction of each token, for statistics alone."""

    ids_VT: Tensor  # any at padding
    number: int  # of directions

    def reordered(self, order_VT: Tensor) -> "TokenDirections":
        return TokenDirections(self.ids_VT.gather(1, order_VT), self.number)


@dataclass(frozen=True)
class RankedTokens:
    """Which of a rank's T places hold real tokens; made once for each pass of a stack."""

    is_pad_VT: Tensor
    quotas_VR: Tensor  # tokens of each reach, on the device
    sizes: Sizes
    noise: NoiseKey | None  # None: no routing noise (evaluation)
    is_reported: bool  # whether anyone reads the layers' balance losses and statistics
    # None: nobody asked, or what arrived in a cluster brought none along.
    directions: TokenDirections | None = field(default=None, kw_only=True)

    @property
    def num_tokens(self) -> int:
        """T, the largest number of real tokens on any rank of any process."""
        return self.sizes.num_tokens

    @property
    def micro_batch(self) -> int | None:
        """Which pass of an update in training this is; None at evaluation."""
        return None if self.noise is None else self.noise.micro_batch


@dataclass(frozen=True)
class PlacedTokens(RankedTokens):
    """Ranked tokens that know where they stand in the batch."""

    position_VT: Tensor  # s·B + b of each token; -1: none
    place_N: Tensor  # v·T + t of each position; -1: padding
    num_sentences: int
    keys: TokenKeys | None = None  # None: nobody reads them

    @property
    def num_steps(self) -> int:
        """Positions of a sentence, S."""
        return self.place_N.shape[0] // max(1, self.num_sentences)

    @property
    def step_VT(self) -> Tensor:
        """The position s of each token in its sentence; -1: none."""
        return torch.where(self.is_pad_VT, -1, self.position_VT // max(1, self.num_sentences))

    def key_VT(self, ids_BS: Tensor) -> Tensor:
        """One of the keys of each token; any at padding."""
        return ids_BS.T.flatten()[self.position_VT.clamp(min=0)]

    def collect(self, x_SBD: Tensor) -> Tensor:
        """The tokens of each rank in batch order, (V, T, D); 0 where a rank has fewer."""
        rows = gather_rows(
            x_SBD.flatten(0, 1), self.position_VT.flatten(), self.place_N.unsqueeze(-1)
        )
        return rows.view(*self.position_VT.shape, -1)

    def scatter(self, x_VTD: Tensor, like_SBD: Tensor) -> Tensor:
        """The inverse of collect; 0 at padding."""
        rows = gather_rows(
            x_VTD.flatten(0, 1), self.place_N, self.position_VT.flatten().unsqueeze(-1)
        )
        return rows.view_as(like_SBD)


def parts_by_step(tokens: RankedTokens) -> tuple[Tensor, int]:
    """The position of each token in its sentence (V, T), -1 at padding, and how many there are."""
    assert isinstance(tokens, PlacedTokens)
    return tokens.step_VT, tokens.num_steps


def agree_on_sizes(counts: Sequence[int], shares: Shares | None, *, device: torch.device) -> Sizes:
    """The numbers of tokens of all reaches, here and at most. A collective.

    Args:
        counts: real tokens of each hosted rank.
        shares: of the tokens; None: all of them go everywhere.
    """
    of_ranks = [shares.quotas(count) if shares else {Reach.GLOBAL: count} for count in counts]
    quotas = {reach: tuple(of_rank.get(reach, 0) for of_rank in of_ranks) for reach in Reach}
    largest = [max(quotas[reach]) for reach in Reach]
    num_tokens, *agreed = agree_on_maximum([max(counts), *largest], device=device)
    return Sizes(tuple(counts), quotas, num_tokens, dict(zip(Reach, agreed, strict=True)))


def quotas_on_device(sizes: Sizes, device: torch.device) -> Tensor:
    """How many tokens of each hosted rank have each reach, (V, reaches); copied once a pass."""
    return torch.tensor([sizes.quotas[reach] for reach in Reach]).T.to(device)


def rank_tokens(
    is_pad_BS: Tensor,
    rank_B: Tensor,
    *,
    num_hosted: int,
    noise: NoiseKey | None = None,
    shares: Shares | None = None,
    is_reported: bool = True,
    keys: TokenKeys | None = None,
    direction_B: Tensor | None = None,
    num_directions: int = 0,
) -> PlacedTokens:
    """Compact the real tokens of every hosted rank, sentence by sentence. A collective.

    Args:
        rank_B: for each sentence the hosted rank (0 … V-1) that it belongs to; -1: to none, its
            tokens are treated as padding.
        shares: of tokens with each reach, where some layer makes a difference among them.
        is_reported: whether layers are to give their balance losses and statistics.
        keys: for layers that look at what tokens are.
        direction_B: of each sentence, below ``num_directions``; None: they are not told apart.
    """
    num_sentences, length = is_pad_BS.shape
    # Host sync: how many tokens there are decides the size of every later tensor. Once a pass.
    is_real_BS = ~is_pad_BS & (rank_B >= 0).unsqueeze(-1)
    sentence_n, offset_n = is_real_BS.nonzero(as_tuple=True)
    rank_n = rank_B[sentence_n]
    order = rank_n.argsort(stable=True)
    rank_n, sentence_n, offset_n = rank_n[order], sentence_n[order], offset_n[order]
    counts_V = torch.bincount(rank_n, minlength=num_hosted)
    sizes = agree_on_sizes(counts_V.tolist(), shares, device=is_pad_BS.device)
    num_tokens = sizes.num_tokens

    starts_V = counts_V.cumsum(0) - counts_V
    place_n = torch.arange(rank_n.shape[0], device=rank_n.device) - starts_V[rank_n]
    place_n = rank_n * num_tokens + place_n
    position_n = offset_n * num_sentences + sentence_n
    position = place_n.new_full((num_hosted * num_tokens,), -1)
    position[place_n] = position_n
    place_N = place_n.new_full((num_sentences * length,), -1)
    place_N[position_n] = place_n
    position_VT = position.view(num_hosted, num_tokens)
    directions = None
    if direction_B is not None:
        sentence_VT = position_VT.clamp(min=0) % num_sentences
        directions = TokenDirections(direction_B[sentence_VT], num_directions)
    return PlacedTokens(
        is_pad_VT=position_VT < 0,
        quotas_VR=quotas_on_device(sizes, is_pad_BS.device),
        sizes=sizes,
        noise=noise,
        is_reported=is_reported,
        position_VT=position_VT,
        place_N=place_N,
        num_sentences=num_sentences,
        keys=keys,
        directions=directions,
    )
