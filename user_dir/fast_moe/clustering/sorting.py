"""Differentiable sorting of tokens by group.

Zeng and Xiong (2023), section 3.3: the sorted tokens are P · x with a permutation P that is
replaced, in the backward pass, by a soft one, so that scores learn which tokens belong together.
Shape suffixes: V hosted ranks, T tokens, G groups, D width.
"""

import torch
from torch import Tensor


def differentiable_sort(
    x_VTD: Tensor,
    scores_VTG: Tensor,
    *,
    group_VT: Tensor,
    order_VT: Tensor,
    temperature: float,
) -> Tensor:
    """x[order] in value; gradients also reach the scores.

    The gradient is that of P · x with P = hard + Q − stop(Q). The row of Q of a token in group g
    is softmax over the rank's real tokens of scores[:, g] / temperature, divided by the number of
    tokens in the group. Those rows are alike within a group, so no T × T matrix is needed: the
    time is O(G·T·D), the memory O(G·T) beyond the input's own.

    Args:
        group_VT: the group of each token; -1 for padding, which takes no part.
        order_VT: a permutation of 0..T-1 for each rank.

    Returns:
        (V, T, D), place i of rank v holding x[v, order[v, i]].
    """
    return _Sort.apply(x_VTD, scores_VTG, group_VT, order_VT, temperature)


def take_tokens(x_VTD: Tensor, order_VT: Tensor) -> Tensor:
    """x[v, order[v, i]] without gradient tricks."""
    return x_VTD.gather(1, order_VT.unsqueeze(-1).expand(-1, -1, x_VTD.shape[-1]))


class _Sort(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_VTD, scores_VTG, group_VT, order_VT, temperature):
        ctx.save_for_backward(x_VTD, scores_VTG, group_VT, order_VT)
        ctx.temperature = temperature
        return take_tokens(x_VTD, order_VT)

    @staticmethod
    def backward(ctx, grad_sorted_VTD: Tensor):
        x_VTD, scores_VTG, group_VT, order_VT = ctx.saved_tensors
        index = order_VT.unsqueeze(-1).expand_as(grad_sorted_VTD)
        grad_x_VTD = torch.empty_like(grad_sorted_VTD).scatter_(1, index, grad_sorted_VTD)
        grad_scores_VTG = None
        if ctx.needs_input_grad[1]:
            grad_scores_VTG = _score_gradient(
                x_VTD, scores_VTG, group_VT, grad_x_VTD, ctx.temperature
            )
        return grad_x_VTD, grad_scores_VTG, None, None, None


def _score_gradient(x_VTD, scores_VTG, group_VT, grad_VTD, temperature: float) -> Tensor:
    # Sums over many tokens need at least float32.
    dtype = torch.promote_types(scores_VTG.dtype, torch.float32)
    num_groups = scores_VTG.shape[-1]
    is_member_VGT = group_VT.unsqueeze(1) == torch.arange(num_groups, device=x_VTD.device)[:, None]
    members_VG1 = is_member_VGT.sum(dim=-1, keepdim=True).clamp(min=1)
    mean_grad_VGD = (is_member_VGT.to(dtype) @ grad_VTD.to(dtype)) / members_VG1
    grad_q_VTG = x_VTD.to(dtype) @ mean_grad_VGD.transpose(1, 2)
    is_pad_VT1 = (group_VT < 0).unsqueeze(-1)
    logits_VTG = (scores_VTG.to(dtype) / temperature).masked_fill(is_pad_VT1, float("-inf"))
    # A rank without tokens has nothing to normalise.
    q_VTG = logits_VTG.softmax(dim=1).masked_fill(is_pad_VT1, 0)
    mean_VG = (q_VTG * grad_q_VTG).sum(dim=1, keepdim=True)
    return (q_VTG * (grad_q_VTG - mean_VG) / temperature).to(scores_VTG.dtype)
