"""Makes the tables of clusters that follow from tokens, from a sample of the training data.

Every process makes the same ones. A table is made once: a checkpoint's is never made anew.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from user_dir.errors import UserError
from user_dir.fast_moe.clustering.tables import (
    Table,
    cooccurrence_vectors,
    random_order,
    similar_order,
)
from user_dir.fast_moe.clustering.token_table import TokenTable
from user_dir.fast_moe.config import MoeConfig

logger = logging.getLogger(__name__)

_SENTENCES = 20_000  # of the sample
_BATCH = 100
# Of the model's inputs, by stack.
_INPUTS = {"encoder": "src_tokens", "decoder": "prev_output_tokens"}


def make_cluster_tables(model: Any, dataset: Any) -> None:
    """Fill the tables of a model that has empty ones.

    Args:
        dataset: the training data, as it is collated for the model.

    Raises:
        UserError: --cluster-table names a file that cannot be read or does not fit.
    """
    tables = {
        stack: [one for one in getattr(model, stack).modules() if isinstance(one, TokenTable)]
        for stack in _INPUTS
    }
    if all(one.is_made for ours in tables.values() for one in ours):
        return
    sentences = _sample(dataset, pad=model.encoder.padding_idx)
    config = model.moe_parts.config
    for stack, ours in tables.items():
        dictionary = getattr(model, stack).dictionary
        for table in ours:
            made = _make(table, sentences[stack], dictionary, config)
            table.fill(made)
            shares = made.shares(table.num_experts)
            logger.info(
                "%s: clusters by %s; shares of %d experts from %.4f to %.4f",
                stack,
                config.cluster_by,
                table.num_experts,
                shares.min(),
                shares.max(),
            )


def _make(
    table: TokenTable, sentences: Sequence[Tensor], dictionary: Dictionary, config: MoeConfig
) -> Table:
    num_keys, num_experts = len(table.start_K), table.num_experts
    ids = torch.cat(list(sentences))
    if table.by_language:
        firsts = torch.stack([one[0] for one in sentences])
        lengths = torch.tensor([len(one) for one in sentences])
        counts = torch.zeros(num_keys, dtype=torch.int64).index_add(0, firsts, lengths)
        _refuse_no_languages(counts, dictionary)
        order = torch.arange(num_keys)
        return Table.of(counts, order, num_experts=num_experts)
    counts = torch.bincount(ids, minlength=num_keys)
    # What only begins sentences has no token before it that could tell it apart.
    firsts = torch.bincount(torch.stack([one[0] for one in sentences]), minlength=num_keys)
    whole = ((firsts > 0) & (firsts == counts)).nonzero().flatten().tolist()
    how, seed = config.cluster_table, config.seed
    if how == "random":
        order = random_order(counts, whole=whole, seed=seed)
    elif how == "similar":
        vectors = cooccurrence_vectors(sentences, num_keys=num_keys)
        order = similar_order(counts, vectors, num_groups=table.num_groups, whole=whole, seed=seed)
    else:
        groups = _read_groups(Path(how), dictionary, num_groups=table.num_groups, seed=seed)
        return Table.within(groups, counts, num_groups=table.num_groups, num_experts=num_experts)
    return Table.of(counts, order, num_experts=num_experts)


def _sample(dataset: Any, *, pad: int) -> dict[str, list[Tensor]]:
    """Sentences of both stacks as the model gets them, without padding."""
    generator = torch.Generator().manual_seed(1)
    count = min(_SENTENCES, len(dataset))
    chosen = torch.randperm(len(dataset), generator=generator)[:count].tolist()
    found: dict[str, list[Tensor]] = {stack: [] for stack in _INPUTS}
    for start in range(0, count, _BATCH):
        batch = dataset.collater([dataset[index] for index in chosen[start : start + _BATCH]])
        for stack, name in _INPUTS.items():
            ids_BS = batch["net_input"][name]
            found[stack] += [row[row != pad] for row in ids_BS]
    return found


def _refuse_no_languages(counts: Tensor, dictionary: Dictionary) -> None:
    if int((counts > 0).sum()) == 1 and int(counts.argmax()) == dictionary.eos():
        logger.warning(
            "--cluster-by language: the decoder's sentences begin with no language token, so its "
            "clusters follow from tokens alone; --decoder-langtok would tell them apart"
        )


def _read_groups(path: Path, dictionary: Dictionary, *, num_groups: int, seed: int) -> Tensor:
    """The cluster of each token; tokens that the file does not name get one by chance."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(num_groups, (len(dictionary),), generator=generator)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--cluster-table ({path}): {getattr(error, 'strerror', None) or 'is not UTF-8'}; "
            "random, similar, or a file with lines of a token, a tab and its cluster would do"
        ) from None
    for number, line in enumerate(lines, 1):
        token, _, group = line.rpartition("\t")
        if not token or not group.isdecimal() or int(group) >= num_groups:
            raise UserError(
                f"--cluster-table ({path}), line {number}: must be a token, a tab and a cluster "
                f"from 0 to {num_groups - 1}"
            )
        if token in dictionary:
            groups[dictionary.index(token)] = int(group)
    return groups
