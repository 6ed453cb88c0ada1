"""What clusters have to do with what tokens are: counts of both together, and bits from them.

Shape suffixes: V hosted ranks, T tokens, K kinds of tokens, G groups.
"""

import torch
from torch import Tensor

from user_dir.fast_moe.tokens.ranked import PlacedTokens, RankedTokens

# Kinds of tokens, by three properties. Ids follow the corpus's frequencies, so that the first ones
# have a kind of their own, and the power of two of an id tells how frequent it is.
_OWN_IDS, _OTHER_IDS, _LANGUAGES, _FREQUENCIES = 192, 64, 64, 20
KINDS = {
    "token": range(_OWN_IDS + _OTHER_IDS),
    "language": range(_OWN_IDS + _OTHER_IDS, _OWN_IDS + _OTHER_IDS + _LANGUAGES),
    "frequency": range(
        _OWN_IDS + _OTHER_IDS + _LANGUAGES, _OWN_IDS + _OTHER_IDS + _LANGUAGES + _FREQUENCIES
    ),
}
_NUM_KINDS = KINDS["frequency"].stop


def count_kinds(group_VT: Tensor, tokens: RankedTokens, *, num_groups: int) -> Tensor | None:
    """How many tokens of each kind are in each group, (K, G), float64; None without ids.

    Every token counts once in each of the three properties.
    """
    if not isinstance(tokens, PlacedTokens) or tokens.keys is None:
        return None
    id_VT = tokens.key_VT(tokens.keys.ids_BS)
    language_VT = tokens.key_VT(tokens.keys.language_BS)
    kinds = [
        torch.where(id_VT < _OWN_IDS, id_VT, _OWN_IDS + id_VT % _OTHER_IDS),
        KINDS["language"].start + language_VT % _LANGUAGES,
        KINDS["frequency"].start + (id_VT + 1).double().log2().long().clamp(max=_FREQUENCIES - 1),
    ]
    counts = torch.zeros(_NUM_KINDS * num_groups + 1, dtype=torch.float64, device=id_VT.device)
    for kind_VT in kinds:
        index_VT = torch.where(tokens.is_pad_VT, -1, kind_VT * num_groups + group_VT)
        index_VT = index_VT.where(index_VT >= 0, counts.shape[0] - 1)
        counts.index_add_(0, index_VT.flatten(), torch.ones_like(index_VT.flatten()).double())
    return counts[:-1].view(_NUM_KINDS, num_groups)


def mutual_information(counts_KG: Tensor, of: str) -> float:
    """Bits that the group of a token tells about a property of it, "token" say.

    0 where groups are made at random, but for about (kinds − 1)(groups − 1) / (1.4 · tokens).
    """
    counts = counts_KG[KINDS[of].start : KINDS[of].stop]
    total = counts.sum()
    if not total:
        return 0.0
    shares = counts / total
    apart = shares.sum(1, keepdim=True) * shares.sum(0, keepdim=True)
    is_there = shares > 0
    bits = shares[is_there] * (shares[is_there] / apart[is_there]).log2()
    return float(bits.sum())


def share_moved(before_KG: Tensor, now_KG: Tensor) -> float:
    """The share of tokens whose id has another group as its main one than before.

    Ids that did not occur before do not count.
    """
    ids = KINDS["token"]
    before, now = (counts[ids.start : ids.stop] for counts in (before_KG, now_KG))
    is_known = (before.sum(1) > 0) & (now.sum(1) > 0)
    weight = now.sum(1)[is_known]
    if not weight.sum():
        return 0.0
    moved = before.argmax(1)[is_known] != now.argmax(1)[is_known]
    return float((weight * moved).sum() / weight.sum())
