"""What clusters go by where the command line does not say."""

from argparse import Namespace

import pytest

from user_dir.fast_moe.config import MoeConfig
from user_dir.transformer.new_run import choose_clusters

OURS, FAIRSEQS = "scomoe_multilingual_translation", "translation"


@pytest.mark.parametrize(
    ("given", "key", "table"),
    [
        ({"task": OURS}, "token", "similar"),
        ({"task": OURS, "cluster_by": "kmeans"}, "kmeans", "similar"),
        ({"task": OURS, "cluster_by": "scores"}, "scores", "similar"),
        ({"task": OURS, "cluster_table": "random"}, "token", "random"),
        ({"task": OURS, "temperature": 0.3}, "scores", "similar"),
        ({"task": OURS, "gate_type": "sigmoid"}, "scores", "similar"),
        ({"task": FAIRSEQS}, "scores", "similar"),
        # An older checkpoint, which says nothing of tables, has scores.
        ({"task": OURS, "moe_layout_given": True}, "scores", "random"),
    ],
)
def test_clusters_of_a_new_run_go_by_similar_tokens(given, key, table):
    args = Namespace(token_cluster=True, **given)
    choose_clusters(args)
    config = MoeConfig.from_args(args)
    assert (config.cluster_by, config.cluster_table) == (key, table)


def test_without_clustering_nothing_is_chosen():
    args = Namespace(task=OURS, token_cluster=False)
    choose_clusters(args)
    assert vars(args) == {"task": OURS, "token_cluster": False}
