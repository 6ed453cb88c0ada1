"""The ways of exchange that a plan compares, each as options of training."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from user_dir.fast_moe.config import MoeConfig

# What makes one way of exchange out of another; everything else stays as it was asked for.
_PLAIN: dict[str, Any] = {
    "scomoe_type": None,
    "ratio1": None,
    "ratio2": None,
    "moe_exchange_dim": None,
    "token_cluster": False,
    "moe_limit_nodes": None,
    "moe_exchange": None,
}


@dataclass(frozen=True)
class Method:
    """A way of exchange: options, and the family whose grid it is in."""

    name: str
    family: str
    options: dict[str, Any]

    def applied_to(self, args: Namespace) -> Namespace:
        """The options of a plan with this way of exchange."""
        return Namespace(**{**vars(args), **_PLAIN, **self.options})

    @property
    def flags(self) -> str:
        """What to add to the command of a training."""
        words = []
        for name, value in self.options.items():
            flag = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(flag)
            else:
                words += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
        return " ".join(words)


def all_methods(*, num_nodes: int, dim: int, ratios: Sequence[float]) -> list[Method]:
    """GShard, a token once to each node, limits of nodes, narrow ends, then Seq and Feat over the
    grid, without clusters and with them.

    Args:
        dim: the model's width.
        ratios: that α and β of the grid are taken from.
    """
    found = [Method("gshard", "gshard", {}), Method("gshard+cluster", "gshard", _CLUSTERS)]
    if num_nodes > 1:
        found.append(Method("hierarchical", "hierarchical", _HIERARCHICAL))
        # Limits of more nodes than a token has experts hardly change what is sent.
        options: dict[str, Any] = {"moe_limit_nodes": 1, **_HIERARCHICAL}
        found.append(Method("hierarchical, one node", "hierarchical", options))
    for width in dim // 2, dim // 4:
        options = {"scomoe_type": "bottleneck", "moe_exchange_dim": width}
        found.append(Method(f"bottleneck {width}", "bottleneck", options))
    for kind in "seq", "feat":
        for first, second in _grid(ratios):
            options = {"scomoe_type": kind, "ratio1": first, "ratio2": second}
            name = f"{kind} {first:g}/{second:g}"
            found.append(Method(name, kind, options))
            found.append(Method(f"{name}+cluster", f"{kind}+cluster", {**options, **_CLUSTERS}))
    return found


def asked_for(args: Namespace, methods: Sequence[Method]) -> Method:
    """The way of exchange that the options name; one of the methods, if it is one of them."""
    config = MoeConfig.from_args(args)
    options: dict[str, Any] = {}
    if config.scomoe_type != "none":
        options["scomoe_type"] = config.scomoe_type
    if config.exchange_dim is not None:
        options["moe_exchange_dim"] = config.exchange_dim
    if config.divides:
        options |= {"ratio1": config.ratio1, "ratio2": config.ratio2}
    if config.token_cluster:
        options |= _CLUSTERS
    if config.gate.limit_nodes is not None:
        options["moe_limit_nodes"] = config.gate.limit_nodes
    if config.exchange != "direct":
        options["moe_exchange"] = config.exchange
    for method in methods:
        if method.options == options:
            return method
    return Method("as asked", "as asked", options)


_CLUSTERS = {"token_cluster": True}
_HIERARCHICAL = {"moe_exchange": "hierarchical"}


def _grid(ratios: Sequence[float]) -> list[tuple[float, float]]:
    """α and β whose sum is at most 1, but for both 0, which is GShard."""
    return [(a, b) for a in ratios for b in ratios if 0 < round(a + b, 6) <= 1]
