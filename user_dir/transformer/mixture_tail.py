"""Mixtures that follow each other, their tokens clustered before if asked for."""

from functools import partial

from fairseq.models.transformer import TransformerConfig
from torch import Tensor, nn

from user_dir.fast_moe.build import MoeParts
from user_dir.fast_moe.config import LayerKind
from user_dir.fast_moe.report import MoeReport
from user_dir.fast_moe.tokens.ranked import PlacedTokens, RankedTokens
from user_dir.transformer.sublayers import (
    ClusteringSublayer,
    FeedForwardSublayer,
    MoeSublayer,
    SublayerConfig,
    recompute_if_asked,
)


class MixtureTail(nn.Module):
    """A dense feed-forward layer, then mixtures that follow each other.

    With token clustering the first of them sends every token to its cluster, where it stays
    until all are done. The clusters are a local variable of `forward`.
    """

    def __init__(
        self,
        parts: MoeParts,
        of_sublayers: SublayerConfig,
        kinds: tuple[LayerKind, ...],
        cfg: TransformerConfig,
    ):
        super().__init__()
        self.cfg = cfg  # says whether to recompute
        self.feed_forward = FeedForwardSublayer(of_sublayers)
        names = [f"{of_sublayers.stack}.moe{index}" for index in range(len(kinds))]
        self.clustering: ClusteringSublayer | None = None
        if kinds[0] is LayerKind.CLUSTER:
            self.clustering = ClusteringSublayer(parts, of_sublayers, name=names.pop(0))
            kinds = kinds[1:]
        self.layers = nn.ModuleList(
            MoeSublayer(parts, of_sublayers, kind=kind, name=name)
            for kind, name in zip(kinds, names, strict=True)
        )

    def forward(self, x_SBD: Tensor, tokens: PlacedTokens) -> tuple[Tensor, list[MoeReport]]:
        """Returns (S, B, D), 0 at padding, and a report for each mixture, if anyone reads them."""
        run = partial(recompute_if_asked, self.cfg, training=self.training)
        reports: list[MoeReport | None] = []
        x_VTD = run(self.feed_forward, tokens.collect(x_SBD))
        here: RankedTokens = tokens
        clusters = None
        if self.clustering is not None:
            # Not recomputed: tokens must not be assigned anew in the backward pass.
            x_VTD, clusters = self.clustering.cluster(x_VTD, tokens)
            here = clusters.tokens
            x_VTD = run(self.clustering, x_VTD, clusters)
            reports.append(clusters.report)
        for layer in self.layers:
            x_VTD, report = run(layer, x_VTD, here)
            reports.append(report)
        if clusters is not None:
            x_VTD = clusters.restore(x_VTD)
        return tokens.scatter(x_VTD, x_SBD), [one for one in reports if one is not None]
