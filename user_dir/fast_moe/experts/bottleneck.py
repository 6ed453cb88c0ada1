"""Experts between narrow ends: tokens travel with fewer features than the model has.

BigMac (Jin et al., AAAI 2025): y = U · FFN_e(V · x), with V (D' x D) before the exchange and U
(D x D') after it, both shared by the experts of a layer. D model width, D' what travels, H hidden
width of a plain expert, H' = H · D / D' of one between narrow ends: so that its weights (hidden
biases aside) and its arithmetic are those of the plain one.
"""

from torch import nn

from user_dir.errors import UserError
from user_dir.fast_moe.layout.reach import FEATURE_STEP


def bottleneck_hidden_dim(exchange_dim: int, *, dim: int, hidden_dim: int) -> int:
    """H' of experts between ends of width D'.

    Raises:
        UserError: D' is no multiple of 8 below D, or H' no whole number; says what would do.
    """
    if _fits(exchange_dim, dim, hidden_dim):
        return hidden_dim * dim // exchange_dim
    fitting = [d for d in range(FEATURE_STEP, dim, FEATURE_STEP) if _fits(d, dim, hidden_dim)]
    near = min(fitting, key=lambda d: abs(d - exchange_dim), default=None)
    raise UserError(
        f"--moe-exchange-dim ({exchange_dim}) must be a multiple of {FEATURE_STEP} below the model "
        f"width {dim} that divides {dim} x {hidden_dim}, the width times the hidden width of an "
        f"expert; {'wider models have some' if near is None else f'{near} would do'}"
    )


def narrow_ends(dim: int, exchange_dim: int) -> tuple[nn.Linear, nn.Linear]:
    """V and U without biases, so that what no expert took stays 0; orthogonal at the start."""
    down = nn.Linear(dim, exchange_dim, bias=False)
    up = nn.Linear(exchange_dim, dim, bias=False)
    for linear in down, up:
        nn.init.orthogonal_(linear.weight)
    return down, up


def _fits(exchange_dim: int, dim: int, hidden_dim: int) -> bool:
    in_steps = 0 < exchange_dim < dim and exchange_dim % FEATURE_STEP == 0
    return in_steps and hidden_dim * dim % exchange_dim == 0
