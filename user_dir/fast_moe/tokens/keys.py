"""What tokens are, apart from their vectors: their ids, those before them, their language.

Shape suffixes: B sentences, S positions of a sentence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenKeys:
    """What the cluster of a token may follow from: nothing that comes later in its sentence."""

    ids_BS: Tensor
    previous_BS: Tensor  # the id before each; padding's before the first
    language_BS: Tensor  # the first id of the sentence: with language tokens, that of its language

    @staticmethod
    def of(ids_BS: Tensor, *, pad: int) -> "TokenKeys":
        """Read whole sentences, padded on either side."""
        previous_BS = torch.nn.functional.pad(ids_BS, (1, 0), value=pad)[:, :-1]
        first_B1 = ids_BS.ne(pad).long().argmax(dim=1, keepdim=True)
        return TokenKeys(ids_BS, previous_BS, ids_BS.gather(1, first_B1).expand_as(ids_BS))

    def last_of(self, num_positions: int) -> "TokenKeys":
        """Those of the last positions alone: in cached decoding of one."""
        keys = (self.ids_BS, self.previous_BS, self.language_BS)
        return TokenKeys(*(key_BS[:, -num_positions:] for key_BS in keys))
