"""Batches that leave no sentence out."""

from fairseq.data import BaseWrapperDataset


class WholeDataset(BaseWrapperDataset):
    """A fairseq dataset every sentence of which is in a batch.

    fairseq loses the last batch where its size is no multiple of --required-batch-size-multiple
    (8 by default). Two of these are equal if their datasets are the same, so that fairseq finds
    the iterator that it made for one.
    """

    def batch_by_size(self, indices, **limits):
        """fairseq's batches, which are in order; then what it leaves out of them."""
        if not len(indices):
            return []
        batches = list(super().batch_by_size(indices, **limits))
        rest = indices[sum(map(len, batches)) :]
        return [*batches, rest] if len(rest) else batches

    def __eq__(self, other) -> bool:
        return isinstance(other, WholeDataset) and self.dataset is other.dataset

    def __hash__(self) -> int:
        return hash(self.dataset)
