"""Mixture-of-experts layers as plain loops over ranks, tokens and experts: easy to believe.

A rank's tokens are a (T, D) tensor; everything is differentiable, so that gradients can be
compared as well.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor


@dataclass
class RankResult:
    """What one rank's tokens got."""

    outputs: Tensor
    balance_loss: Tensor
    num_choices: int
    num_dropped: int


def capacity_of(num_tokens: int, num_experts: int, top_k: int, factor: float) -> int | None:
    if factor == 0:
        return None
    even_share = math.ceil(num_tokens / num_experts)
    return max(1, int(min(top_k, num_experts) * even_share * Fraction(str(factor))))


def feed_forward(x_D: Tensor, expert: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    weight1, bias1, weight2, bias2 = expert
    return (x_D @ weight1 + bias1).relu() @ weight2 + bias2


def route_rank(
    x_TD: Tensor,
    gate_ED: Tensor,
    experts: list,
    *,
    capacity: int | None,
    top_k: int = 2,
    normalize_before: bool = False,
    prioritized: bool = False,
    gumbel_TE: Tensor | None = None,
    keep_uniform_T: Tensor | None = None,
    values_TD: Tensor | None = None,
    kind: str = "softmax",
    bias_E: Tensor | None = None,
    nodes: tuple[int, int] | None = None,
    targets_E: Tensor | None = None,
    scale_TK: Tensor | None = None,
) -> RankResult:
    """One rank's GShard (top_k 2) or Switch (top_k 1) layer, token by token.

    The gate reads x; the experts get the values, x itself by default.

    Args:
        kind: of the probabilities.
        bias_E: added to them where experts are compared.
        nodes: how many the experts lie on, and on how many a token's may lie.
        scale_TK: what the weight of each choice is multiplied with.
        targets_E: shares that the balance loss draws to; equal ones by default.
    """
    values_TD = x_TD if values_TD is None else values_TD
    num_tokens, num_experts = x_TD.shape[0], len(experts)
    scores = [x_TD[t] @ gate_ED.T for t in range(num_tokens)]
    probs = [z.softmax(-1) if kind == "softmax" else z.sigmoid() for z in scores]
    compared = [eligible(z, p, bias_E, nodes).detach() for z, p in zip(scores, probs, strict=True)]
    firsts = [int(c.argmax()) for c in compared]
    seconds: list[int | None] = []
    for t in range(num_tokens):
        if top_k == 1 or num_experts == 1:
            seconds.append(None)
            continue
        best, best_score = -1, -math.inf
        for e in range(num_experts):
            score = float(compared[t][e]) + (float(gumbel_TE[t, e]) if gumbel_TE is not None else 0)
            if e != firsts[t] and score > best_score:
                best, best_score = e, score
        given_up = keep_uniform_T is not None and not (
            2 * float(probs[t][best]) > float(keep_uniform_T[t])
        )
        seconds.append(None if given_up else best)
        if given_up and normalize_before:
            seconds[-1] = -best - 1  # remembered: it still counts in the sum of weights

    order = list(range(num_tokens))
    if prioritized:
        order.sort(key=lambda t: -float(probs[t][firsts[t]]))  # stable: ties by token index
    taken = [0] * num_experts
    is_kept: dict[tuple[int, int], bool] = {}
    num_choices = num_dropped = 0
    for choice, chosen in enumerate((firsts, seconds)):
        for t in order:
            e = chosen[t]
            if e is None or e < 0:
                continue
            num_choices += 1
            is_kept[t, choice] = capacity is None or taken[e] < capacity
            taken[e] += is_kept[t, choice]
            num_dropped += not is_kept[t, choice]

    outputs = []
    for t in range(num_tokens):
        weights = {0: probs[t][firsts[t]]}
        ids = {0: firsts[t]}
        second = seconds[t]
        if second is not None:
            ids[1] = second if second >= 0 else -second - 1
            weights[1] = probs[t][ids[1]]
        survivors = [c for c in ids if is_kept.get((t, c), False)]
        y = torch.zeros_like(values_TD[t])
        for c in survivors:
            weight = weights[c]
            if top_k == 2:
                counted = list(ids) if normalize_before else survivors
                weight = weight / sum(weights[d] for d in counted)
            if scale_TK is not None:
                weight = weight * scale_TK[t, c]
            y = y + weight * feed_forward(values_TD[t], experts[ids[c]])
        outputs.append(y)
    if kind == "sigmoid":
        probs = [p / p.sum() for p in probs]
    balance = x_TD.new_zeros(())
    for e in range(num_experts):
        if num_tokens and num_experts > 1:
            share = sum(f == e for f in firsts) / num_tokens
            target = 1 / num_experts if targets_E is None else targets_E[e]
            balance = balance + share * sum(p[e] for p in probs) / num_tokens / target
    return RankResult(
        outputs=torch.stack(outputs) if outputs else values_TD * 1,
        balance_loss=balance,
        num_choices=num_choices,
        num_dropped=num_dropped,
    )


def choose_by_expert(
    x_TD: Tensor,
    gate_ED: Tensor,
    experts: list,
    *,
    share: Fraction,
    most: int,
    values_TD: Tensor | None = None,
    kind: str = "softmax",
    thresholds_E: Tensor | None = None,
    scale_TK: Tensor | None = None,
) -> RankResult:
    """One rank's layer whose experts choose tokens, expert by expert.

    Args:
        share: of the tokens, that each expert takes, but no more than `most`.
        thresholds_E: take the tokens whose probability reaches them instead.
        scale_TK: what the weight of a token at each expert is multiplied with.
    """
    values_TD = x_TD if values_TD is None else values_TD
    scores = [x @ gate_ED.T for x in x_TD]
    probs = [z.softmax(-1) if kind == "softmax" else z.sigmoid() for z in scores]
    outputs = [torch.zeros_like(value) for value in values_TD]
    num_choices = 0
    for e, expert in enumerate(experts):
        ranked = sorted(range(len(x_TD)), key=lambda t, e=e: -float(probs[t][e]))
        taken = ranked[: min(math.ceil(share * len(x_TD)), most)]
        if thresholds_E is not None and share < 1:
            taken = [t for t in ranked if float(probs[t][e]) >= float(thresholds_E[e])]
        for t in taken:
            weight = probs[t][e] if scale_TK is None else probs[t][e] * scale_TK[t, e]
            outputs[t] = outputs[t] + weight * feed_forward(values_TD[t], expert)
        num_choices += len(taken)
    y_TD = torch.stack(outputs) if outputs else values_TD * 1
    return RankResult(y_TD, x_TD.new_zeros(()), num_choices, num_dropped=0)


def eligible(
    z_E: Tensor, probs_E: Tensor, bias_E: Tensor | None, nodes: tuple[int, int] | None
) -> Tensor:
    """What experts are compared by; −inf for those of nodes that a token may not go to."""
    compared = z_E.clone() if bias_E is None else probs_E + bias_E
    if nodes is None or nodes[0] <= nodes[1]:
        return compared
    num_nodes, most = nodes
    size = len(z_E) // num_nodes
    ranked = probs_E if bias_E is None else compared
    worth = [
        sum(sorted((float(v) for v in ranked[n * size : (n + 1) * size]), reverse=True)[:2])
        for n in range(num_nodes)
    ]
    allowed = sorted(range(num_nodes), key=lambda n: -worth[n])[:most]
    for n in range(num_nodes):
        if n not in allowed:
            compared[n * size : (n + 1) * size] = -math.inf
    return compared
