"""The criterion `moe_cross_entropy`: label-smoothed cross entropy plus balance losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fairseq import utils
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
    label_smoothed_nll_loss,
)
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from torch import Tensor

from user_dir.errors import UserError
from user_dir.fast_moe.experts.shared import budget_loss
from user_dir.fast_moe.gating.balance import BalanceLosses, balance_over_all_ranks
from user_dir.fast_moe.layout.processes import refuse_unconnected_processes
from user_dir.training.cluster_metrics import cluster_logging_output, log_cluster_metrics
from user_dir.training.declared import (
    GATE_LOSS_COMBINED,
    GATE_LOSS_TRANSFORM,
    GATE_LOSS_WEIGHT,
    STATISTICS_INTERVAL,
)
from user_dir.training.metrics import PREFIX, log_moe_metrics, moe_logging_output
from user_dir.training.stopping import agree, num_requests


@dataclass
class MoeCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Label smoothing as in fairseq, and the weight of the balance losses."""

    moe_gate_loss_wt: float = GATE_LOSS_WEIGHT.field()
    moe_gate_loss_combine_method: ChoiceEnum(  # type: ignore
        GATE_LOSS_COMBINED.choices
    ) = GATE_LOSS_COMBINED.field()  # noqa: RUF009
    moe_gate_loss_transform: ChoiceEnum(  # type: ignore
        GATE_LOSS_TRANSFORM.choices
    ) = GATE_LOSS_TRANSFORM.field()  # noqa: RUF009
    moe_statistics_interval: int = STATISTICS_INTERVAL.field()


@register_criterion("moe_cross_entropy", dataclass=MoeCrossEntropyConfig)
class MoeCrossEntropyCriterion(LabelSmoothedCrossEntropyCriterion):
    """Σ over logical ranks of CE_r + λ · sample_size_r · A_r, A_r the layers' balance losses.

    Takes models without MoE layers as well; λ then has no effect.
    """

    def __init__(
        self,
        task,
        sentence_avg,
        label_smoothing,
        ignore_prefix_size=0,
        report_accuracy=False,
        moe_gate_loss_wt=0.01,
        moe_gate_loss_combine_method="average",
        moe_gate_loss_transform="none",
        moe_statistics_interval=100,
    ):
        refuse_unconnected_processes()
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        if str(moe_gate_loss_transform) == "neg-log":
            raise UserError(
                "--moe-gate-loss-transform neg-log is refused: the negative logarithm falls as "
                "the experts collapse, so training would reward imbalance; leave it at none"
            )
        if not 0 <= moe_gate_loss_wt < math.inf:
            raise UserError(
                f"--moe-gate-loss-wt must be 0 or more, but is {moe_gate_loss_wt}; 0.01 is usual"
            )
        if moe_statistics_interval < 0:
            raise UserError(
                "--moe-statistics-interval must be a number of updates, or 0 for no statistics, "
                f"but is {moe_statistics_interval}; 100 is usual"
            )
        self.statistics_interval = moe_statistics_interval
        self.gate_loss_weight = moe_gate_loss_wt
        self.combine = str(moe_gate_loss_combine_method)

    def forward(self, model, sample, reduce=True):
        """The loss, the sample size, and the logging output (see `reduce_metrics`)."""
        net_output = model(**sample["net_input"])
        lprobs = model.get_normalized_probs(net_output, log_probs=True)
        target = model.get_targets(sample, net_output)
        if self.ignore_prefix_size > 0:
            lprobs = lprobs[:, self.ignore_prefix_size :].contiguous()
            target = target[:, self.ignore_prefix_size :].contiguous()
        loss, nll_loss = label_smoothed_nll_loss(
            lprobs.flatten(0, 1),
            target.flatten(),
            self.eps,
            ignore_index=self.padding_idx,
            reduce=reduce,
        )
        sample_size = sample["nsentences"] if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": loss.data,
            "nll_loss": nll_loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": sample_size,
            "stop_requests": num_requests(),
            **padding_counts(sample, self.padding_idx),
        }
        extra = net_output[1]
        if extra.get("moe_reports"):
            sizes_V = self._sizes_of_ranks(extra, sample)
            of_layers = [one.losses for one in extra["moe_reports"] if one.losses is not None]
            gate_loss = self._gate_loss(of_layers, sizes_V)
            z_loss = self._sum_over_ranks([one.z_V for one in of_layers], sizes_V)
            uses = [one.use for one in extra["moe_reports"] if one.use is not None]
            if reduce:
                loss = loss + self.gate_loss_weight * gate_loss + z_loss
                if uses:
                    value, size_of_all = budget_loss(uses, sizes_V.sum())
                    loss = loss + uses[0].weight * _shared_out(value, sizes_V, size_of_all)
            logging_output["loss"] = loss.data
            logging_output["moe_gate_loss"] = gate_loss.data
            logging_output |= moe_logging_output(extra["moe_reports"])
            logging_output |= cluster_logging_output(extra["moe_reports"])
        if self.report_accuracy:
            is_target = target.ne(self.padding_idx)
            correct = lprobs.argmax(-1).eq(target) & is_target
            logging_output["n_correct"] = utils.item(correct.sum())
            logging_output["total"] = utils.item(is_target.sum())
        return loss, sample_size, logging_output

    def _gate_loss(self, of_layers: Sequence[BalanceLosses], sizes_V: Tensor) -> Tensor:
        """Σ over hosted ranks of sample_size_r · A_r. A collective if balance is over all ranks."""
        of_layers = [one for one in of_layers if one.is_trained]
        of_all = [one.gate_sums for one in of_layers if one.gate_sums is not None]
        if not of_all:
            return self._sum_over_ranks([one.balance_V for one in of_layers], sizes_V)
        values, size_of_all = balance_over_all_ranks(of_all, sizes_V.sum())
        loss = values.mean() if self.combine == "average" else values.sum()
        return _shared_out(loss, sizes_V, size_of_all)

    def _sum_over_ranks(self, losses: Sequence[Tensor | None], sizes_V: Tensor) -> Tensor:
        """Σ over hosted ranks of sample_size_r · l_r, l_r the layers' losses combined."""
        of_layers = [loss_V for loss_V in losses if loss_V is not None]
        if not of_layers:  # clustering alone is balanced by what it is
            return sizes_V.new_zeros(())
        stacked = torch.stack(of_layers)
        loss_V = stacked.mean(dim=0) if self.combine == "average" else stacked.sum(dim=0)
        return (sizes_V.to(loss_V) * loss_V).sum()

    def _sizes_of_ranks(self, extra: dict, sample: dict) -> Tensor:
        """The sample size of each hosted rank, (V,)."""
        ranks_B, num_hosted = extra["sentence_ranks"], extra["moe_reports"][0].num_hosted
        if self.sentence_avg:
            sizes_B = torch.ones_like(ranks_B)
        else:
            sizes_B = sample["target"].ne(self.padding_idx).sum(dim=1)
        sizes_V = torch.zeros(num_hosted + 1, device=ranks_B.device)  # the last: of no rank
        return sizes_V.index_add(0, ranks_B % (num_hosted + 1), sizes_B.to(sizes_V))[:-1]

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Log loss and nll (base 2), accuracy, padding share, and the mixtures' metrics."""
        super().reduce_metrics(logging_outputs)
        totals = {
            key: sum(log[key] for log in logging_outputs if key in log)
            for key in logging_outputs[0]
        }
        agree(totals["stop_requests"])
        metrics.log_scalar("sample_size", float(totals["sample_size"]), weight=0, round=1)
        positions = float(totals["positions"])
        if positions > 0:
            share = float(totals["padding"]) / positions
            metrics.log_scalar("padding", share, positions, round=3)
        if "moe_gate_loss" in totals:
            size = float(totals["sample_size"])
            if size > 0:
                metrics.log_scalar(
                    "moe_gate_loss", float(totals["moe_gate_loss"]) / size, size, round=4
                )
            for name, sums in totals.items():
                if name.startswith(PREFIX):
                    log_moe_metrics(name, sums)
            log_cluster_metrics(totals)


def padding_counts(sample: dict, padding_idx: int) -> dict[str, int]:
    """Positions of source and target, and how many of them are padding."""
    source, target = sample["net_input"]["src_tokens"], sample["target"]
    positions = source.numel() + target.numel()
    padding = source.eq(padding_idx).sum() + target.eq(padding_idx).sum()
    return {"positions": positions, "padding": padding}


def _shared_out(loss: Tensor, sizes_V: Tensor, size_of_all: Tensor) -> Tensor:
    """A loss of all ranks: in value this process's share of it, in gradient all of it.

    For what a process does to its own tokens changes everybody's loss.
    """
    return sizes_V.sum() * loss.detach() + size_of_all * (loss - loss.detach())
