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


def balanced_groups(scores_VTG: Tensor, part_VT: Tensor, *, num_parts: int) -> Tensor:
    """A balanced assignment of every part of every rank's tokens, (V, T); -1 where there is none.

    Args:
        part_VT: which tokens of a rank are balanced among themselves, 0 … num_parts-1; -1: none.
    """
    if scores_VTG.is_cuda:
        return _approximate_parts(scores_VTG, part_VT, num_parts=num_parts)
    group_VT = torch.full_like(part_VT, -1)
    for part_T, scores_TG, group_T in zip(part_VT, scores_VTG, group_VT, strict=True):
        for part in part_T[part_T >= 0].unique().tolist():
            mine_t = (part_T == part).nonzero().squeeze(-1)
            group_T[mine_t] = balanced_assignment(scores_TG[mine_t])
    return group_VT


def _approximate_parts(scores_VTG: Tensor, part_VT: Tensor, *, num_parts: int) -> Tensor:
    group_VT = torch.full_like(part_VT, -1)
    for part in range(num_parts):  # all ranks at once
        of_part_VT = approximate_assignment(scores_VTG, part_VT != part)
        group_VT = torch.where(part_VT == part, of_part_VT, group_VT)
    return group_VT


def finite_scores(scores_TG: Tensor, *, dim: tuple[int, ...] = (0, 1)) -> Tensor:
    """The scores with NaN and infinities replaced by the worst or best finite one over `dim`."""
    if not scores_TG.numel():
        return scores_TG
    is_finite_TG = scores_TG.isfinite()
    worst = torch.where(is_finite_TG, scores_TG, float("inf")).amin(dim, keepdim=True)
    best = torch.where(is_finite_TG, scores_TG, float("-inf")).amax(dim, keepdim=True)
    has_finite = worst.isfinite()  # without any, all count alike
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


def approximate_assignment(
    scores_PTG: Tensor, is_absent_PT: Tensor | None = None, *, iterations: int = 60
) -> Tensor:
    """Balanced assignments near the best ones, in a fixed number of steps on any device.

    Prices are raised where the softmax of (scores − prices) crowds, at a falling temperature;
    then every token goes to its best group that has room. No value is read by the host, so
    nothing waits for a GPU.

    Args:
        scores_PTG: as for `balanced_assignment`, (T, G) or several problems of that form at once.
        is_absent_PT: rows that are no tokens, if any; they get -1.
    """
    if scores_PTG.dim() == 2:
        return approximate_assignment(scores_PTG.unsqueeze(0), iterations=iterations)[0]
    if is_absent_PT is None:
        is_absent_PT = scores_PTG.new_zeros(scores_PTG.shape[:2], dtype=torch.bool)
    if 0 in is_absent_PT.shape:
        return is_absent_PT.new_zeros(is_absent_PT.shape, dtype=torch.int64)
    is_absent_PT1 = is_absent_PT.unsqueeze(-1)
    scores_PTG = scores_PTG.detach().float().masked_fill(is_absent_PT1, float("nan"))
    scores_PTG = finite_scores(scores_PTG, dim=(1, 2))
    prices_PG = _softmax_prices(scores_PTG, ~is_absent_PT1, iterations=iterations)
    return _fill(scores_PTG, prices_PG, is_absent_PT)


def _softmax_prices(scores_PTG: Tensor, is_token_PT1: Tensor, *, iterations: int) -> Tensor:
    num_groups = scores_PTG.shape[2]
    num_tokens_P1 = is_token_PT1.sum(1).clamp(min=1)
    # What all tokens think of a group is a matter of its price alone.
    prices_PG = (scores_PTG * is_token_PT1).sum(1) / num_tokens_P1
    centred_PTG = scores_PTG - prices_PG.unsqueeze(1)
    # Temperatures relate to how far apart a token's scores are.
    apart_PTG = (centred_PTG - centred_PTG.mean(dim=2, keepdim=True)).abs() * is_token_PT1
    spread_P1 = apart_PTG.mean(dim=2).sum(1, keepdim=True) / num_tokens_P1
    spread_P1 = spread_P1.clamp(min=1e-12)
    target_P1 = num_tokens_P1 / num_groups
    for iteration in range(iterations):
        temperature_P1 = spread_P1 * 0.01 ** (iteration / max(1, iterations - 1))
        z_PTG = (scores_PTG - prices_PG.unsqueeze(1)) / temperature_P1.unsqueeze(1)
        load_PG = (z_PTG.softmax(dim=2) * is_token_PT1).sum(dim=1)
        prices_PG = prices_PG + temperature_P1 * (load_PG / target_P1).clamp(min=1e-6).log()
    return prices_PG


def _fill(scores_PTG: Tensor, prices_PG: Tensor, is_absent_PT: Tensor) -> Tensor:
    """Place every token so that each group holds ⌊T/G⌋ or ⌈T/G⌉.

    In every round each token without a group asks for its best one with room, and a group takes
    those that would lose most elsewhere. A group that cannot take all is full from then on, so as
    many rounds as there are groups are always enough.
    """
    num_groups = scores_PTG.shape[2]
    adjusted_PTG = scores_PTG - prices_PG.unsqueeze(1)
    groups_PT = torch.full_like(is_absent_PT, -1, dtype=torch.int64)
    room_PG = _places(prices_PG, is_absent_PT)
    place_T = torch.arange(is_absent_PT.shape[1], device=is_absent_PT.device)
    for _ in range(num_groups):
        open_PTG = adjusted_PTG.masked_fill((room_PG <= 0).unsqueeze(1), float("-inf"))
        values_PTK, choice_PTK = open_PTG.topk(min(2, num_groups), dim=2)
        loss_PT = (values_PTK[..., 0] - values_PTK[..., -1]).nan_to_num(0, posinf=3e38)
        is_asking_PT = ~is_absent_PT & (groups_PT < 0) & values_PTK[..., 0].isfinite()
        wanted_PT = torch.where(is_asking_PT, choice_PTK[..., 0], num_groups)
        # One key for (group, falling loss): bits of floats from 0 on are ordered as they are.
        key_PT = (wanted_PT << 32) - loss_PT.clamp(min=0).view(torch.int32)
        order_PT = key_PT.argsort(dim=1, stable=True)
        asked_PG = _count(wanted_PT, num_groups + 1)
        starts_PG = asked_PG.cumsum(1) - asked_PG
        queue_PT = place_T - starts_PG.gather(1, wanted_PT.gather(1, order_PT))
        queue_PT = torch.empty_like(wanted_PT).scatter(1, order_PT, queue_PT)
        room_PT = torch.nn.functional.pad(room_PG, (0, 1)).gather(1, wanted_PT)
        groups_PT = torch.where(queue_PT < room_PT, wanted_PT, groups_PT)
        room_PG = room_PG - torch.minimum(asked_PG[:, :-1], room_PG)
    return groups_PT


def _places(prices_PG: Tensor, is_absent_PT: Tensor) -> Tensor:
    """Places of each group: the dearest have one more where it does not come out even."""
    num_groups = prices_PG.shape[1]
    num_tokens_P1 = (~is_absent_PT).sum(1, keepdim=True)
    nth_G = torch.arange(num_groups, device=prices_PG.device)
    has_extra_PG = (nth_G < num_tokens_P1 % num_groups).long()
    by_price_PG = prices_PG.argsort(dim=1, descending=True, stable=True)
    extra_PG = torch.empty_like(has_extra_PG).scatter(1, by_price_PG, has_extra_PG)
    return num_tokens_P1 // num_groups + extra_PG


def _count(ids_PT: Tensor, num_ids: int) -> Tensor:
    # Not bincount, which waits for a GPU to know its size.
    counts = ids_PT.new_zeros(ids_PT.shape[0], num_ids)
    return counts.scatter_add(1, ids_PT, torch.ones_like(ids_PT))


def _say_once_that_the_kernel_is_missing() -> None:
    if not _said:
        _said.append(True)
        logger.warning(
            "balanced assignment runs in torch, many times slower than its C++ kernel; build it "
            "with: python setup.py build_ext --inplace"
        )


_said: list[bool] = []
