"""The clustering layer: tokens move to their clusters' ranks, and experts work on them there.

Zeng and Xiong (2023), section 3.3. Shape suffixes: V hosted ranks, T tokens, D width.
"""

from torch import Tensor, nn

from user_dir.fast_moe.clustering.assignment import ClusterGate
from user_dir.fast_moe.clustering.clusters import TokenClusters, cluster
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.layout.reach import Reach, Shares
from user_dir.fast_moe.layout.topology import Topology
from user_dir.fast_moe.tokens.ranked import RankedTokens


class ClusteringLayer(nn.Module):
    """Sends every token to the expert of its cluster, where it stays for the layers that follow.

    Args:
        gate: decides on the clusters.
        experts: on the full width.
        name: tells this layer's report from those of the others.
        shares: α and β of the layers that follow.
        temperature: of the softmax that the scores learn through, if the gate has any.
    """

    kind = LayerKind.CLUSTER

    def __init__(
        self,
        *,
        gate: ClusterGate,
        experts: nn.Module,
        topology: Topology,
        name: str,
        shares: Shares | None = None,
        temperature: float = 0.5,
    ):
        super().__init__()
        self.gate, self.experts, self.topology, self.name = gate, experts, topology, name
        self.shares, self.temperature = shares, temperature
        reaches = shares.reaches() if shares else ()
        for reach in (Reach.GLOBAL, *reaches):  # one order on all processes
            topology.plan(reach)

    def token_clustering_moe(
        self, x_VTD: Tensor, tokens: RankedTokens, *, detach: bool = False, by_step: bool = False
    ) -> tuple[Tensor, TokenClusters]:
        """Send every token to the rank of its cluster.

        The tokens stay there until `TokenClusters.restore`; `cluster_experts` runs the expert of
        each cluster.

        Args:
            detach: keep the scores' gradient from the tokens, as the decoder does in training.
            by_step: balance the tokens of each position among themselves, as in decoding.

        Returns:
            the tokens where they arrived, (V, T', D), and the plan that brings them back.
        """
        return cluster(
            x_VTD,
            tokens,
            gate=self.gate,
            temperature=self.temperature,
            shares=self.shares,
            topology=self.topology,
            detach=detach,
            by_step=by_step,
            name=self.name,
        )

    def cluster_experts(self, x_VTD: Tensor, clusters: TokenClusters) -> Tensor:
        """Apply to every clustered token the expert that it was sent to; see `cluster_weight`."""
        rows_MD = clusters.to_rows(x_VTD)
        return clusters.to_ranks(self.experts(rows_MD, clusters.counts))

    def cluster_weight(self, x_VTD: Tensor, clusters: TokenClusters) -> Tensor | None:
        """What a clustered token's expert counts, (V, T', 1); None where it counts fully."""
        if not self.gate.learns_by_weight:
            return None
        weight_M = self.gate.mixing_weight(clusters.to_rows(x_VTD), clusters.expert_M)
        return clusters.to_ranks(weight_M.unsqueeze(-1))
