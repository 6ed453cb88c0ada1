"""Small `scomoe` models without a corpus, and batches for them."""

from argparse import Namespace
from types import SimpleNamespace

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

from user_dir import register  # noqa: F401 - registers the architectures
from user_dir.fast_moe.clustering.tables import Table, random_order
from user_dir.fast_moe.clustering.token_table import TokenTable

NUM_SYMBOLS = 36


def make_dictionary() -> Dictionary:
    dictionary = Dictionary()
    for index in range(NUM_SYMBOLS):
        dictionary.add_symbol(f"w{index}")
    return dictionary


DICTIONARY = make_dictionary()


def build_model(arch: str = "scomoe_tiny", seed: int = 1, **options):
    """A model of a named architecture with the given options (underscores, no dashes)."""
    args = Namespace(arch=arch, **options)
    ARCH_CONFIG_REGISTRY[arch](args)
    task = SimpleNamespace(source_dictionary=DICTIONARY, target_dictionary=DICTIONARY)
    torch.manual_seed(seed)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task)


SMALL = {
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "dropout": 0.0,
    "moe_nodes": 2,
    "moe_ranks_per_node": 2,
}
# Wide enough for the shares of Feat.
WIDE = {**SMALL, "encoder_embed_dim": 32}
SEQ = {"scomoe_type": "seq", "ratio1": 0.2, "ratio2": 0.5}
FEAT = {"scomoe_type": "feat", "ratio1": 0.25, "ratio2": 0.5}
CROSS_AND_SELF = {"no_cross_attention": True, "cross_self_attention": True}

LENGTHS = [7, 3, 9, 4, 6, 2]


def make_batch(lengths: list[int], *, seed: int = 5, target_lengths: list[int] | None = None):
    """A fairseq net_input: sources padded on the left, targets on the right, ended by eos."""
    generator = torch.Generator().manual_seed(seed)

    def sentences(sizes):
        return [
            torch.cat(
                [
                    torch.randint(4, 4 + NUM_SYMBOLS, (n - 1,), generator=generator),
                    torch.tensor([DICTIONARY.eos()]),
                ]
            )
            for n in sizes
        ]

    sources = sentences(lengths)
    targets = sentences(target_lengths or lengths[::-1])
    src = pad(sources, left=True)
    prev = pad([t.roll(1) for t in targets], left=False)
    return {
        "src_tokens": src,
        "src_lengths": torch.tensor([len(s) for s in sources]),
        "prev_output_tokens": prev,
    }, pad(targets, left=False)


def pad(rows: list[torch.Tensor], *, left: bool) -> torch.Tensor:
    width = max(len(row) for row in rows)
    out = torch.full((len(rows), width), DICTIONARY.pad())
    for i, row in enumerate(rows):
        out[i, width - len(row) :] = row if left else out[i, width - len(row) :]
        if not left:
            out[i, : len(row)] = row
    return out


def loss_of(model, net_input, target) -> torch.Tensor:
    """Summed cross entropy plus 0.1 of the balance losses."""
    logits, extra = model(**net_input)
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=DICTIONARY.pad(), reduction="sum"
    )
    for report in extra.get("moe_reports", []):
        if report.balance_loss_V is not None:
            loss = loss + 0.1 * report.balance_loss_V.sum()
    return loss


def learned(model):
    """The same model after three updates of what it learns without a gradient."""
    fill_tables(model)
    model.train()
    net_input, _ = make_batch(LENGTHS)
    with torch.no_grad():
        for update in range(3):
            model.set_num_updates(update)
            model(**net_input)
        model.end_update()
    return model


def fill_tables(model) -> None:
    """Give the tables of clusters by token something to go by, as training does from its data."""
    for table in model.modules():
        if isinstance(table, TokenTable):
            num_keys = len(table.start_K)
            counts = 1 + torch.arange(num_keys) % 7
            order = random_order(counts, whole=[DICTIONARY.eos()], seed=1)
            table.fill(Table.of(counts, order, num_experts=table.num_experts))
