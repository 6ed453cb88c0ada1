"""What a model's options must fit: its layers, their width, its layout."""

from argparse import Namespace

from user_dir.errors import UserError
from user_dir.fast_moe.config import LayerKind, MoeConfig
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.transformer.layer_order import check_type_is_used, order_layers


def check_stacks(config: MoeConfig, args: Namespace) -> None:
    """Refuse layers that the options of the mixtures do not fit.

    Raises:
        ValueError: clustering, reordering or a type does not fit the layers or their width.
    """
    orders = {
        stack: order_layers(config, stack=stack, num_layers=getattr(args, f"{stack}_layers"))
        for stack in ("encoder", "decoder")
    }
    check_type_is_used(config, list(orders.values()))
    check_expert_choice(config)
    for stack, order in orders.items():
        if LayerKind.FEAT in order.mixtures:
            config.shares.features(getattr(args, f"{stack}_embed_dim"))
        if LayerKind.BOTTLENECK in order.mixtures:
            # Needs torch, without which the rest is checked.
            from user_dir.fast_moe.experts.bottleneck import bottleneck_hidden_dim

            assert config.exchange_dim is not None
            bottleneck_hidden_dim(
                config.exchange_dim,
                dim=getattr(args, f"{stack}_embed_dim"),
                hidden_dim=config.expert_ffn_dim or getattr(args, f"{stack}_ffn_embed_dim"),
            )


def check_scomoe_layout(config: MoeConfig, layout: Layout) -> None:
    """Refuse fewer experts than ranks where tokens may not leave their rank or node.

    Raises:
        ValueError: the number of experts is no multiple of the number of ranks.
    """
    check_node_limit(config, layout)
    check_exchange(config, layout)
    if not config.divides and not config.token_cluster:
        return
    num_experts, num_ranks = config.num_experts, layout.num_ranks
    if num_experts % num_ranks:
        flag = f"--scomoe-type {config.scomoe_type}"
        near = max(1, round(num_experts / num_ranks)) * num_ranks
        raise UserError(
            f"{'--token-cluster' if config.token_cluster else flag} needs the same number of "
            f"experts on every rank, but --moe-expert-count is {num_experts} for {num_ranks} "
            f"logical ranks ({layout}); {near} would do"
        )


def check_expert_choice(config: MoeConfig) -> None:
    """Refuse experts that choose tokens where they cannot, and what they leave nothing to do.

    Raises:
        UserError: --moe-expert-choice does not go with another option.
    """
    gate = config.gate
    if not gate.expert_choice:
        return
    if config.encoder_freq == 0:
        raise UserError(
            "--moe-expert-choice works in the encoder alone, for in the decoder experts would "
            "choose by tokens that are not written yet; but --encoder-moe-freq is 0"
        )
    if config.capacity_factor == 0:
        raise UserError(
            "--moe-expert-choice lets every expert take --capacity-factor times an even share of "
            "the tokens, but that is 0 (dropless); 1.0 would do"
        )
    if gate.limit_nodes is not None:
        raise UserError(
            "--moe-limit-nodes does not go with --moe-expert-choice: how many nodes a token goes "
            "to is up to the experts; leave one of them out"
        )
    balanced_otherwise = gate.balance != "loss" or gate.balance_scope != "rank"
    if config.decoder_freq == 0 and (balanced_otherwise or gate.topology_shares):
        raise UserError(
            "--moe-balance, --moe-balance-scope and --moe-topology-shares have nothing to do where "
            "--moe-expert-choice balances all mixtures, those of the encoder; leave them out"
        )


def check_node_limit(config: MoeConfig, layout: Layout) -> None:
    """Refuse a limit of nodes that leaves a token fewer experts than it chooses.

    Raises:
        UserError: --moe-limit-nodes is too small for the layout, or experts are replicated.
    """
    limit, top_k = config.gate.limit_nodes, config.capacity.top_k
    if limit is None:
        return
    left = limit * config.num_experts // layout.num_nodes
    if config.num_experts < layout.num_ranks:
        raise UserError(
            f"--moe-limit-nodes needs every expert on one node, but {config.num_experts} experts "
            f"are copied to {layout.num_ranks} ranks; leave it out"
        )
    if left < top_k:
        raise UserError(
            f"--moe-limit-nodes {limit} leaves a token {left} expert, but it chooses {top_k}; "
            f"{-(-top_k * layout.num_nodes // config.num_experts)} would do"
        )


def check_exchange(config: MoeConfig, layout: Layout) -> None:
    """Refuse copies of experts that begin in the middle of a node and end in another.

    Raises:
        UserError: --moe-exchange hierarchical, and the ranks that hold every expert once split
            nodes.
    """
    num_experts, per_node = config.num_experts, layout.ranks_per_node
    whole = num_experts % per_node == 0 or per_node % num_experts == 0
    if config.exchange == "direct" or whole or num_experts >= layout.num_ranks:
        return
    raise UserError(
        f"--moe-exchange hierarchical needs whole nodes, but {num_experts} experts are copied to "
        f"{layout.num_ranks} ranks, so that a copy splits a node of {per_node}; "
        f"--moe-expert-count {layout.num_ranks} would do, and so would --moe-exchange direct"
    )
