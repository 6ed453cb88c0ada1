"""Mixtures that follow each other, their tokens clustered before if asked for. Level 4."""

from functools import partial

from fairseq import utils
from fairseq.models.transformer import TransformerConfig
from fairseq.modules import LayerNorm
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import Tensor, nn

from user_dir.fast_moe.clustering import TokenClusters
from user_dir.fast_moe.layer_builder import MoeParts, StackConfig
from user_dir.fast_moe.sublayers import LayerReport, MoeSublayer, run_layer
from user_dir.fast_moe.tokens import PlacedTokens, RankedTokens


class ClusteringSublayer(MoeSublayer):
    """Sends tokens to their clusters and applies each cluster's expert where they arrive.

    y = x + FFN(norm(x)), or, with the sigmoid gate, x + a · FFN(norm(x)): what it mixes with
    weights a and 1 − a is the expert, its residual included, and the token itself.
    """

    def __init__(self, parts: MoeParts, stack: StackConfig, *, name: str):
        super().__init__(parts, stack, kind="cluster", name=name)
        self.is_decoder = stack.stack == "decoder"

    def cluster(self, x_VTD: Tensor, tokens: RankedTokens) -> tuple[Tensor, TokenClusters]:
        """The tokens at the ranks of their clusters, and the way back."""
        return self.moe.token_clustering_moe(
            x_VTD, tokens, detach=self.is_decoder and self.training, by_step=self.is_decoder
        )

    def forward(self, x_VTD: Tensor, clusters: TokenClusters) -> Tensor:  # type: ignore[override]
        """Apply the experts to tokens that have arrived."""
        y_VTD = self.moe.cluster_experts(self._before(x_VTD), clusters)
        weight_VT1 = self.moe.cluster_weight(x_VTD, clusters)
        return self._after(x_VTD, y_VTD if weight_VT1 is None else y_VTD * weight_VT1)

    def reports(self, clusters: TokenClusters) -> list[LayerReport]:
        """Sizes of the clusters, what it took to make them, what they sent, if it is read."""
        if clusters.sums is None:
            return []
        return [LayerReport(self.moe.name, "cluster", None, clusters.sums)]


class FeedForwardSublayer(nn.Module):
    """The dense feed-forward layer before the mixtures of a reordered stack."""

    def __init__(self, stack: StackConfig):
        super().__init__()
        self.layer_norm = LayerNorm(stack.dim)
        self.fc1 = nn.Linear(stack.dim, stack.ffn_dim)
        self.fc2 = nn.Linear(stack.ffn_dim, stack.dim)
        self.activation_fn = utils.get_activation_fn(stack.activation)
        self.normalize_before = stack.normalize_before
        name = self.__class__.__name__
        self.activation_dropout = FairseqDropout(stack.activation_dropout, module_name=name)
        self.dropout = FairseqDropout(stack.dropout, module_name=name)

    def forward(self, x_VTD: Tensor) -> Tensor:
        """Norm, two linear maps, residual."""
        y_VTD = self.layer_norm(x_VTD) if self.normalize_before else x_VTD
        y_VTD = self.activation_dropout(self.activation_fn(self.fc1(y_VTD)))
        x_VTD = x_VTD + self.dropout(self.fc2(y_VTD))
        return x_VTD if self.normalize_before else self.layer_norm(x_VTD)


class ClusteredMoeStack(nn.Module):
    """A dense feed-forward layer, then mixtures that follow each other.

    With token clustering the first of them sends every token to its cluster, where it stays
    until all are done. The clusters are a local variable of `forward`.
    """

    def __init__(
        self, parts: MoeParts, stack: StackConfig, kinds: tuple[str, ...], cfg: TransformerConfig
    ):
        super().__init__()
        self.cfg = cfg  # says whether to recompute
        self.feed_forward = FeedForwardSublayer(stack)
        names = [f"{stack.stack}.moe{index}" for index in range(len(kinds))]
        self.clustering: ClusteringSublayer | None = None
        if kinds[0] == "cluster":
            self.clustering = ClusteringSublayer(parts, stack, name=names.pop(0))
            kinds = kinds[1:]
        self.layers = nn.ModuleList(
            MoeSublayer(parts, stack, kind=kind, name=name)
            for kind, name in zip(kinds, names, strict=True)
        )

    def forward(self, x_SBD: Tensor, tokens: PlacedTokens) -> tuple[Tensor, list[LayerReport]]:
        """Returns (S, B, D), 0 at padding, and a report for each mixture."""
        run = partial(run_layer, self.cfg, training=self.training)
        reports: list[LayerReport] = []
        x_VTD = run(self.feed_forward, tokens.collect(x_SBD))
        here: RankedTokens = tokens
        clusters = None
        if self.clustering is not None:
            # Not recomputed: tokens must not be assigned anew in the backward pass.
            x_VTD, clusters = self.clustering.cluster(x_VTD, tokens)
            here = clusters.tokens
            x_VTD = run(self.clustering, x_VTD, clusters)
            reports += self.clustering.reports(clusters)
        for layer in self.layers:
            x_VTD, of_layer = run(layer, x_VTD, here)
            reports += of_layer
        if clusters is not None:
            x_VTD = clusters.restore(x_VTD)
        return tokens.scatter(x_VTD, x_SBD), reports
