"""Lets torch's safe loader read fairseq's checkpoints: nothing in them can run code."""

import argparse
import collections
import typing

import numpy as np
import torch


def allow_fairseq_checkpoints() -> None:
    """Allow the plain types that fairseq keeps in a checkpoint, for this process.

    Each only holds data: namespaces of options, omegaconf's nodes (in the broadcast of a
    checkpoint to several processes), numpy numbers of the BLEU meters, fairseq's placeholder.
    """
    from fairseq.distributed.utils import _TensorPlaceholder
    from numpy._core.multiarray import _reconstruct, scalar
    from omegaconf import DictConfig, ListConfig
    from omegaconf.base import ContainerMetadata, Metadata
    from omegaconf.nodes import AnyNode

    dtype_classes = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,
            collections.defaultdict,
            dict,
            int,
            list,
            typing.Any,
            AnyNode,
            ContainerMetadata,
            DictConfig,
            ListConfig,
            Metadata,
            _TensorPlaceholder,
            _reconstruct,
            np.dtype,
            np.ndarray,
            scalar,
            *dtype_classes,
        ]
    )
