"""Makes tables from keys to experts that give every expert the same share of tokens.

Shape suffixes: K keys, G groups, W dimensions of a key's vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

UNIT = 2**32  # of a table, an expert's length
_ROUNDS, _PRICE_STEPS = 20, 100


@dataclass(frozen=True)
class Table:
    """For every key a stretch of the line from 0 to the number of experts, in units of 1/UNIT."""

    start_K: Tensor
    length_K: Tensor

    @staticmethod
    def of(counts_K: Tensor, order_K: Tensor, *, num_experts: int) -> "Table":
        """Lay the keys one after the other, each as long as its share of the counts.

        A key that never occurs lies where the order puts it, and has no length.

        Args:
            order_K: all keys, in the order in which they lie on the line.
        """
        shares_K = counts_K.double() / counts_K.sum().clamp(min=1)
        ends_K = (shares_K[order_K].cumsum(0) * num_experts * UNIT).round().long()
        starts_K = torch.nn.functional.pad(ends_K, (1, 0))[:-1]
        start_K, length_K = torch.empty_like(ends_K), torch.empty_like(ends_K)
        start_K[order_K], length_K[order_K] = starts_K, ends_K - starts_K
        return Table(start_K.clamp(max=num_experts * UNIT - 1), length_K)

    @staticmethod
    def within(groups_K: Tensor, counts_K: Tensor, *, num_groups: int, num_experts: int) -> "Table":
        """Keep every key in the group that it was given; balance the experts of each group."""
        start_K, length_K = torch.zeros(2, len(groups_K), dtype=torch.int64).unbind(0)
        of_group = num_experts // num_groups
        for group in range(num_groups):
            keys = (groups_K == group).nonzero().squeeze(-1)
            order = torch.arange(len(keys))
            part = Table.of(counts_K[keys], order, num_experts=of_group)
            start_K[keys] = part.start_K + group * of_group * UNIT
            length_K[keys] = part.length_K
        return Table(start_K, length_K)

    def shares(self, num_experts: int) -> Tensor:
        """The share of all tokens that each expert is to expect."""
        shares = torch.zeros(num_experts, dtype=torch.float64)
        ends_K = self.start_K + self.length_K
        for expert in range(num_experts):
            low, high = expert * UNIT, (expert + 1) * UNIT
            inside_K = ends_K.clamp(low, high) - self.start_K.clamp(low, high)
            shares[expert] = inside_K.sum()
        return shares / self.length_K.sum().clamp(min=1)


def random_order(counts_K: Tensor, *, whole: Sequence[int], seed: int) -> Tensor:
    """All keys in an order that follows from the seed.

    Args:
        whole: keys whose tokens cannot be told apart by the token before; they come first, where
            the stretch of the largest begins with an expert.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(counts_K), generator=generator)
    first = torch.tensor(sorted(whole, key=lambda key: -int(counts_K[key])), dtype=torch.int64)
    return torch.cat([first, order[~torch.isin(order, first)]])


def similar_order(
    counts_K: Tensor, vectors_KW: Tensor, *, num_groups: int, whole: Sequence[int], seed: int
) -> Tensor:
    """All keys, those of like vectors behind each other: balanced spherical k-means.

    Keys without a vector (zeros) are spread over all groups.
    """
    order = random_order(counts_K, whole=whole, seed=seed)
    group_K = balanced_kmeans(vectors_KW, counts_K, num_groups=num_groups, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    anywhere_K = torch.randint(num_groups, group_K.shape, generator=generator)
    group_K = torch.where(vectors_KW.norm(dim=1) > 0, group_K, anywhere_K)
    rest = order[len(whole) :]
    return torch.cat([order[: len(whole)], rest[group_K[rest].argsort(stable=True)]])


def balanced_kmeans(vectors_KW: Tensor, counts_K: Tensor, *, num_groups: int, seed: int) -> Tensor:
    """The group of each key: like directions together, groups of about equal counts.

    In every round keys choose the centroid that is nearest at its price, and prices rise where
    counts crowd; then centroids move to the means of their keys.
    """
    unit_KW = torch.nn.functional.normalize(vectors_KW.float(), dim=1)
    weight_K = counts_K.float().clamp(min=0) / counts_K.sum().clamp(min=1)
    generator = torch.Generator().manual_seed(seed)
    # Rare keys as well as frequent ones may start a cluster, but none without a direction.
    chance_K = weight_K.sqrt() * (unit_KW.norm(dim=1) > 0) + 1e-12
    first = torch.multinomial(chance_K, num_groups, generator=generator)
    centroid_GW = unit_KW[first]
    price_G = torch.zeros(num_groups)
    group_K = torch.zeros(len(counts_K), dtype=torch.int64)
    for _ in range(_ROUNDS):
        similarity_KG = unit_KW @ centroid_GW.T
        for step in range(_PRICE_STEPS):
            group_K = (similarity_KG - price_G).argmax(dim=1)
            load_G = torch.zeros(num_groups).index_add(0, group_K, weight_K)
            price_G += 0.2 / (1 + step) ** 0.5 * (load_G - 1 / num_groups)
        sums_GW = torch.zeros_like(centroid_GW).index_add(
            0, group_K, unit_KW * weight_K.sqrt().unsqueeze(1)
        )
        is_empty_G1 = sums_GW.norm(dim=1, keepdim=True) == 0
        centroid_GW = torch.where(
            is_empty_G1, centroid_GW, torch.nn.functional.normalize(sums_GW, dim=1)
        )
    return group_K


def cooccurrence_vectors(
    sentences: Sequence[Tensor], *, num_keys: int, width: int = 64, num_contexts: int = 1000
) -> Tensor:
    """A vector (K, width) for every token id from the tokens within two places of it.

    Positive pointwise mutual information with the most frequent tokens, and its leading singular
    vectors (Levy and Goldberg, 2014). 0 for ids that do not occur.
    """
    text = torch.cat([torch.nn.functional.pad(ids, (0, 2), value=-1) for ids in sentences])
    counts_K = torch.bincount(text[text >= 0], minlength=num_keys)
    contexts = counts_K.argsort(descending=True, stable=True)[: min(num_contexts, num_keys)]
    column_K = torch.full((num_keys,), -1, dtype=torch.int64)
    column_K[contexts] = torch.arange(len(contexts))
    pairs = torch.zeros(num_keys * len(contexts))
    for distance in (1, 2):
        left, right = text[:-distance], text[distance:]
        for token, other in (left, right), (right, left):
            column = column_K[other.clamp(min=0)]
            is_pair = (token >= 0) & (other >= 0) & (column >= 0)
            index = token[is_pair] * len(contexts) + column[is_pair]
            pairs += torch.bincount(index, minlength=len(pairs))
    together = pairs.view(num_keys, -1)
    expected = together.sum(1, keepdim=True) * together.sum(0) / together.sum().clamp(min=1)
    information = (together / expected.clamp(min=1e-9)).clamp(min=1).log()
    width = min(width, *information.shape)
    torch_state = torch.get_rng_state()
    torch.manual_seed(1)  # the same vectors on every process, and no draw from training's numbers
    left_KW, values_W, _ = torch.svd_lowrank(information, q=width)
    torch.set_rng_state(torch_state)
    return left_KW * values_W.sqrt()
