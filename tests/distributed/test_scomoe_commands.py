"""Law 1 for SCoMoE through the commands: any number of processes trains the same model."""

import pytest
import torch

from tests.support.commands import module, run, train_arguments, updates_of
from user_dir import register  # noqa: F401 - lets the safe loader read fairseq checkpoints

VARIANTS = {
    "seq": [
        *("--scomoe-type", "seq", "--scomoe-partition", "threshold"),
        *("--moe-balance", "bias", "--moe-gate", "sigmoid"),
    ],
    "feat": [
        *("--scomoe-type", "feat", "--moe-balance-scope", "global", "--moe-z-loss-wt", "0.01"),
        *("--moe-cmr", "--moe-cmr-dropout", "0.2", "--moe-eom", "0.1"),
        *("--moe-gating-dropout", "0.3", "--moe-exchange", "hierarchical"),
    ],
    "seq+cluster": [
        *("--scomoe-type", "seq", "--token-cluster", "--cluster-by", "scores"),
        "--moe-top1-expert",
    ],
    "cluster by similar token, the default": [
        *("--token-cluster", "--scomoe-type", "bottleneck", "--moe-exchange-dim", "16"),
        "--moe-expert-choice",
    ],
    "cluster by centroid": [
        *("--token-cluster", "--cluster-by", "kmeans", "--cluster-warmup", "2"),
        *("--scomoe-type", "seq", "--moe-balance-scope", "global"),
    ],
    "feat+cluster": ["--scomoe-type", "feat", "--token-cluster", "--gate-type", "sigmoid"],
}
# The numbers of processes that are compared with one; each number hosts ranks in its own way.
OTHERS = {
    "seq": (2, 4),
    "feat": (2,),
    "cluster by similar token, the default": (2,),
    "seq+cluster": (2,),
}
OTHERS |= {"cluster by centroid": (4,), "feat+cluster": (4,)}
LOGGED = (
    *("loss", "nll_loss", "gnorm", "sample_size", "moe_gate_loss", "moe_overflow1"),
    *("moe_tokens_local", "moe_tokens_node", "moe_tokens_global"),
    *("moe_bytes_rank", "moe_bytes_node", "moe_bytes_between"),
)


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_norms_and_adam_states_do_not_depend_on_the_processes(
    small_corpus, tmp_path, variant
):
    updates, checkpoints = {}, {}
    for processes in (1, *OTHERS[variant]):
        save_dir = tmp_path / str(processes)
        arguments = train_arguments(small_corpus / "bin", save_dir, width=32)
        extra = ["--encoder-layers", "4", "--decoder-layers", "4", "--max-update", "5"]
        extra += ["--capacity-factor", "0.7", "--disable-validation", *VARIANTS[variant]]
        done = run([*module("train", "--processes", str(processes)), *arguments, *extra])
        updates[processes] = updates_of(done.stdout + done.stderr)
        checkpoints[processes] = torch.load(save_dir / "checkpoint_last.pt", weights_only=True)
    # The fifth and last update of the epoch has a micro-batch with three empty ranks.
    assert len(updates[1]) == 5
    assert any(record["moe_overflow1"] > 0.05 for record in updates[1].values())
    for processes in OTHERS[variant]:
        for number, record in updates[1].items():
            bits = [key for key in record if key.startswith("moe_cluster_token_bits")]
            assert bool(bits) == ("--token-cluster" in VARIANTS[variant])
            for key in (*LOGGED, *bits):
                mine = updates[processes][number][key]
                assert mine == pytest.approx(record[key], abs=1.1e-3, rel=1e-5), (number, key)
        assert_same_states(checkpoints[processes], checkpoints[1])


def assert_same_states(mine: dict, wanted: dict) -> None:
    assert list(mine["model"]) == list(wanted["model"])
    for name, tensor in wanted["model"].items():
        if "running_" in name or "start_K" in name:
            torch.testing.assert_close(mine["model"][name], tensor, atol=1e-5, rtol=1e-4)
    states, expected = (c["last_optimizer_state"]["state"] for c in (mine, wanted))
    assert states.keys() == expected.keys()
    for index, state in expected.items():
        assert states[index]["step"] == state["step"]
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(states[index][moment], state[moment], atol=1e-6, rtol=5e-3)
