"""Clusters by what a token is: a table from its id, or its language, to its expert.

Nothing is learned, balanced or compared: a token's cluster depends on the token, the one before it
and the language of its sentence alone. Known as Hash Layers (Roller et al., 2021) where a table
takes the place of a gate. Shape suffixes: V hosted ranks, T tokens, K keys, E experts.
"""

import torch
from torch import Tensor

from user_dir.errors import UserError
from user_dir.fast_moe.clustering.assignment import Assignment, ClusterGate
from user_dir.fast_moe.clustering.tables import UNIT, Table
from user_dir.fast_moe.tokens.ranked import PlacedTokens, RankedTokens

_HASH_BITS = 16


class TokenTable(ClusterGate):
    """Gives each key a stretch of the line from 0 to E; its tokens go to the experts there.

    A stretch is as long as the key's share of all tokens, so experts get equal shares. Where it
    reaches over several experts, a hash of the token and the one before it decides.

    Args:
        num_keys: ids of the stack's dictionary.
        by_language: the key is the language, instead of the token.
    """

    start_K: Tensor  # in units of 1/UNIT experts; -1: not yet made
    length_K: Tensor

    def __init__(self, *, num_keys: int, num_experts: int, num_groups: int, by_language: bool):
        super().__init__()
        assert num_experts % num_groups == 0
        self.num_experts, self.num_groups = num_experts, num_groups
        self.by_language = by_language
        # Whole numbers: half precision leaves them as they are.
        self.register_buffer("start_K", torch.full((num_keys,), -1, dtype=torch.int64))
        self.register_buffer("length_K", torch.zeros(num_keys, dtype=torch.int64))

    @property
    def is_made(self) -> bool:
        """Whether the table was filled; makes the host wait for a device."""
        return bool((self.start_K >= 0).all())

    def fill(self, table: Table) -> None:
        """Take over a table of the same keys and experts."""
        self.start_K.copy_(table.start_K)
        self.length_K.copy_(table.length_K)

    def assign(self, x_VTD: Tensor, tokens: RankedTokens, *, by_step: bool = False) -> Assignment:
        """Look every token up; the vectors do not matter."""
        if not isinstance(tokens, PlacedTokens) or tokens.keys is None:
            raise UserError("--cluster-by token and language need the ids of the tokens")
        keys = tokens.keys
        id_VT, previous_VT = tokens.key_VT(keys.ids_BS), tokens.key_VT(keys.previous_BS)
        key_VT = tokens.key_VT(keys.language_BS) if self.by_language else id_VT
        place_VT = self.length_K[key_VT] * _hash(id_VT, previous_VT) >> _HASH_BITS
        expert_VT = (self.start_K[key_VT] + place_VT) // UNIT
        expert_VT = expert_VT.clamp(0, self.num_experts - 1).masked_fill(tokens.is_pad_VT, -1)
        group_VT = expert_VT.div(self.num_experts // self.num_groups, rounding_mode="floor")
        return Assignment(expert_VT, group_VT)


def _hash(id_VT: Tensor, previous_VT: Tensor) -> Tensor:
    """Of two ids, evenly from 0 to 2 ** _HASH_BITS - 1; the same everywhere and for ever.

    The finaliser of MurmurHash3 (public domain) on a combination of both.
    """
    low = 0xFFFFFFFF
    mixed = (id_VT * 0x9E3779B1 + previous_VT * 0x85EBCA77) & low
    mixed = (mixed ^ (mixed >> 16)) * 0x85EBCA6B & low
    mixed = (mixed ^ (mixed >> 13)) * 0xC2B2AE35 & low
    return (mixed ^ (mixed >> 16)) >> (32 - _HASH_BITS)
