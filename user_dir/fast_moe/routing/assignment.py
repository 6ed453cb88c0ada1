"""Balanced assignment: equally many tokens for every group, with the largest summed score.

Exact on a CPU, in C++ (csrc/balanced_assignment.cpp) or, where that is not built, in torch.
On a GPU a fixed number of iterations, without leaving the device. Shape suffixes: T tokens,
G groups.
"""

import logging
from contextlib import suppress
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

kernel: ModuleType | None = None
with suppress(ImportError):
    kernel = import_module("user_dir.fast_moe.routing._balanced_assignment")

logger = logging.getLogger(__name__)

_SAMPLE_STRIDE = 8
_SMALLEST_SAMPLE = 64


def balanced_assignment(scores_TG: Tensor) -> Tensor:
    """Give every token a group so that each group gets ⌊T/G⌋ or ⌈T/G⌉ of them.

    The sum of the scores is the largest possible for tensors on the CPU, computed in double
    precision; on a GPU it is close to it (see `approximate_assignment`). NaN and −inf count as the
    worst finite score, +inf as the best one. The same scores always give the same groups.

    Args:
        scores_TG: of any floating type; T ≥ 0, G ≥ 1.

    Returns:
        the groups (T,), int64.
    """
    if scores_TG.is_cuda:
        return approximate_assignment(scores_TG)
    scores_TG = finite_scores(scores_TG.detach().double()).contiguous()
    if kernel is None:
        _say_once_that_the_kernel_is_missing()
        return exact_assignment_in_torch(scores_TG)
    return exact_assignment(scores_TG)


def finite_scores(scores_TG: Tensor) -> Tensor:
    """The scores with NaN and infinities replaced by the worst or best finite one."""
    if not scores_TG.numel():
        return scores_TG
    is_finite_TG = scores_TG.isfinite()
    worst = torch.where(is_finite_TG, scores_TG, float("inf")).amin()
    best = torch.where(is_finite_TG, scores_TG, float("-inf")).amax()
    has_finite = is_finite_TG.any()  # without any, all count alike
    worst, best = torch.where(has_finite, worst, 0.0), torch.where(has_finite, best, 0.0)
    scores_TG = torch.where(scores_TG.eq(float("inf")), best, scores_TG)
    return torch.where(scores_TG.isfinite(), scores_TG, worst)


def exact_assignment(scores_TG: Tensor) -> Tensor:
    """The exact assignment by the C++ kernel; finite contiguous doubles on the CPU."""
    assert kernel is not None
    groups_T = torch.empty(scores_TG.shape[0], dtype=torch.int64)
    kernel.solve(scores_TG.data_ptr(), *scores_TG.shape, groups_T.data_ptr())
    return groups_T


def exact_assignment_in_torch(scores_TG: Tensor) -> Tensor:
    """The same by the same algorithm in torch; the groups may differ where the sum does not."""
    groups_T, _ = _shortest_paths(scores_TG, _start_prices(scores_TG))
    return groups_T


def _start_prices(scores_TG: Tensor) -> Tensor:
    """The prices of every eighth token, solved the same way: few tokens then have to move."""
    num_tokens, num_groups = scores_TG.shape
    sampled = num_tokens // _SAMPLE_STRIDE
    if sampled < max(_SMALLEST_SAMPLE, num_groups):
        return scores_TG.new_zeros(num_groups)
    sample = scores_TG[: sampled * _SAMPLE_STRIDE : _SAMPLE_STRIDE]
    return _shortest_paths(sample, _start_prices(sample))[1]


def _shortest_paths(scores_TG: Tensor, prices_G: Tensor) -> tuple[Tensor, Tensor]:
    """Groups and prices; csrc/balanced_assignment.cpp describes the graph."""
    num_tokens, num_groups = scores_TG.shape
    floor, extra_left = divmod(num_tokens, num_groups)
    extra = num_groups  # the node that hands out the places beyond the floor
    groups_T = (scores_TG + prices_G).argmax(dim=1)
    price = torch.cat([prices_G, prices_G.min().view(1)])
    counts = torch.bincount(groups_T, minlength=num_groups).tolist()
    has_extra = [False] * num_groups
    # Arc a -> b: what the cheapest token of a costs to move, and which one it is.
    cost = scores_TG.new_full((num_groups + 1, num_groups + 1), float("inf"))
    token = torch.zeros(num_groups + 1, num_groups + 1, dtype=torch.int64)

    def update_arcs(group: int) -> None:
        members = (groups_T == group).nonzero().squeeze(-1)
        cost[group, :num_groups] = float("inf")
        if len(members):
            costs, best = (scores_TG[members, group].unsqueeze(1) - scores_TG[members]).min(dim=0)
            cost[group, :num_groups], token[group, :num_groups] = costs, members[best]
        cost[group, extra] = float("inf") if has_extra[group] else 0.0
        cost[extra, group] = 0.0 if has_extra[group] else float("inf")

    for group in range(num_groups):
        update_arcs(group)
    for source in range(num_groups):
        while counts[source] - floor - has_extra[source] > 0:
            lacks = [counts[g] - floor - has_extra[g] < 0 for g in range(num_groups)]
            target, distance, parent = _nearest(
                cost, price, source, torch.tensor([*lacks, extra_left > 0])
            )
            price += distance.clamp(max=float(distance[target]))
            extra_left -= target == extra
            to = target
            while to != source:
                origin = int(parent[to])
                if to == extra:
                    has_extra[origin] = True
                elif origin == extra:
                    has_extra[to] = False
                else:
                    groups_T[token[origin, to]] = to
                    counts[origin] -= 1
                    counts[to] += 1
                for group in {origin, to} - {extra}:
                    update_arcs(group)
                to = origin
    return groups_T, price[:num_groups]


def _nearest(cost: Tensor, price: Tensor, source: int, is_target: Tensor):
    """Dijkstra's algorithm from the source to the first target; (target, distances, parents)."""
    distance = torch.full_like(price, float("inf"))
    distance[source] = 0
    parent = torch.full(price.shape, -1)
    open_distance = distance.clone()
    is_done = torch.zeros_like(is_target)
    while True:
        node = int(open_distance.argmin())
        if is_target[node]:
            return node, distance, parent
        is_done[node] = True
        open_distance[node] = float("inf")
        through = distance[node] + (cost[node] + price[node] - price).clamp(min=0)
        is_nearer = ~is_done & (through < distance)
        distance[is_nearer] = open_distance[is_nearer] = through[is_nearer]
        parent[is_nearer] = node


def approximate_assignment(scores_TG: Tensor, *, iterations: int = 60) -> Tensor:
    """A balanced assignment near the best one, in a fixed number of steps on any device.

    Prices are raised where the softmax of (scores − prices) crowds, at a falling temperature;
    then every token goes to its best group that has room. No value is read by the host, so
    nothing waits for a GPU.

    Args:
        scores_TG: as for `balanced_assignment`.
    """
    num_tokens, num_groups = scores_TG.shape
    if num_tokens == 0:
        return torch.empty(0, dtype=torch.int64, device=scores_TG.device)
    scores_TG = finite_scores(scores_TG.detach().float())
    adjusted_TG = scores_TG - _softmax_prices(scores_TG, iterations=iterations)
    groups_T = torch.full((num_tokens,), -1, device=scores_TG.device)
    base, extra = divmod(num_tokens, num_groups)
    groups_T = _fill(adjusted_TG, groups_T, capacity=base)
    # The few places left are not scarce in the same way: prices do not count for them.
    return _fill(scores_TG, groups_T, capacity=base + 1) if extra else groups_T


def _softmax_prices(scores_TG: Tensor, *, iterations: int) -> Tensor:
    num_tokens, num_groups = scores_TG.shape
    # What all tokens think of a group is a matter of its price alone.
    prices_G = scores_TG.mean(dim=0)
    centred_TG = scores_TG - prices_G
    # Temperatures relate to how far apart a token's scores are.
    spread = (centred_TG - centred_TG.mean(dim=1, keepdim=True)).abs().mean().clamp(min=1e-12)
    target = num_tokens / num_groups
    for iteration in range(iterations):
        temperature = spread * 0.01 ** (iteration / max(1, iterations - 1))
        load_G = ((scores_TG - prices_G) / temperature).softmax(dim=1).sum(dim=0)
        prices_G = prices_G + temperature * (load_G / target).clamp(min=1e-6).log()
    return prices_G


def _fill(adjusted_TG: Tensor, groups_T: Tensor, *, capacity: int) -> Tensor:
    """Place tokens without a group until every group holds ``capacity``, or none is left.

    In every round each of them asks for its best group with room, and a group takes those that
    would lose most elsewhere. A group that cannot take all is full from then on, so as many
    rounds as there are groups are always enough.
    """
    num_tokens, num_groups = adjusted_TG.shape
    for _ in range(num_groups):
        is_free_T = groups_T < 0
        held_G = _count(torch.where(is_free_T, num_groups, groups_T), num_groups + 1)[:num_groups]
        room_G = capacity - held_G
        open_TG = adjusted_TG.masked_fill(room_G <= 0, float("-inf"))
        values_TK, choice_TK = open_TG.topk(min(2, num_groups), dim=1)
        loss_T = (values_TK[:, 0] - values_TK[:, -1]).nan_to_num(0, posinf=3e38)
        wanted_T = torch.where(is_free_T & values_TK[:, 0].isfinite(), choice_TK[:, 0], num_groups)
        # Sorted by group, then by what a token would lose: its place in the queue of its group.
        by_loss = loss_T.argsort(descending=True, stable=True)
        order = by_loss[wanted_T[by_loss].argsort(stable=True)]
        asked_G = _count(wanted_T, num_groups + 1)
        starts_G = asked_G.cumsum(0) - asked_G
        place_T = torch.empty_like(wanted_T).scatter(
            0, order, torch.arange(num_tokens, device=order.device) - starts_G[wanted_T[order]]
        )
        room_G1 = torch.nn.functional.pad(room_G, (0, 1))
        is_taken_T = place_T < room_G1[wanted_T]
        groups_T = torch.where(is_taken_T, wanted_T, groups_T)
    return groups_T


def _count(ids_T: Tensor, num_ids: int) -> Tensor:
    # Not bincount, which waits for a GPU to know its size.
    return ids_T.new_zeros(num_ids).scatter_add(0, ids_T, torch.ones_like(ids_T))


def _say_once_that_the_kernel_is_missing() -> None:
    if not _said:
        _said.append(True)
        logger.warning(
            "balanced assignment runs in torch, many times slower than its C++ kernel; build it "
            "with: python setup.py build_ext --inplace"
        )


_said: list[bool] = []
