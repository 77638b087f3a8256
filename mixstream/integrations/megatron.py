"""`ExternalBatches`: a loader as Megatron-LM takes it with `--dataloader-type external`.

Rules. One batch of the loader is one iteration of Megatron, which calls `next` for each micro-batch of it. The state
that `--dataloader-save` asks of each data-parallel rank is the same on all."""

from pathlib import Path
from typing import Any, Self

import torch

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.integrations.packed_batches import as_megatron
from mixstream.loader import MicroBatches

_REMEDY = "Give the dataset batch_size=global_batch_size / data-parallel size, and save between iterations"


class ExternalBatches:
    """Endless micro-batches of a loader in the columns of Megatron's GPT, with its `save_state`.

    Args:
        loader: over a dataset with `batch_size` = global_batch_size / data-parallel size and rows of seq_length + 1
            tokens; under tensor, pipeline or context parallelism, with the data-parallel rank= and world_size=.
        micro_batch_size: rows of a micro-batch.

    Attributes:
        batch: the micro-batch that was returned last, for `report`; an empty one before the first.

    >>> import numpy as np, tempfile
    >>> with ms.MDSWriter(columns={"tokens": "ndarray:uint16:5"}, out=(out := tempfile.mkdtemp())) as writer:
    ...     for number in range(8):
    ...         writer.write({"tokens": np.arange(5, dtype=np.uint16) + number})
    >>> batches = ExternalBatches(ms.Loader(ms.StreamingDataset(local=out, batch_size=4)), micro_batch_size=2)
    >>> next(batches)["labels"].tolist(), next(batches)["tokens"].tolist(), batches.save_state()["step"]
    ([[1, 2, 3, 4], [2, 3, 4, 5]], [[2, 3, 4, 5], [3, 4, 5, 6]], 1)
    """

    def __init__(self, loader: ms.Loader, *, micro_batch_size: int) -> None:
        if micro_batch_size < 1 or loader.batch_size % micro_batch_size:
            raise ConfigError(
                f"the dataset's batch_size={loader.batch_size} is no multiple of micro_batch_size={micro_batch_size}: "
                "give the dataset batch_size=global_batch_size / data-parallel size"
            )
        self.loader, self.batch = loader, ms.Batch()
        self._parts = MicroBatches(loader, parts=loader.batch_size // micro_batch_size, remedy=_REMEDY)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        """Return tokens, labels, position_ids (int64 [B, T]) and loss_mask (float32 [B, T]) of the next micro-batch.

        The mask is that of the labels, if rows have a column `loss_mask`; otherwise, all of them count. Of a loader
        with `documents=True`, positions and mask are those of the documents, and there are cu_seqlens and max_seqlen
        (`packed_batches.as_megatron`).
        """
        self.batch = next(self._parts)
        self._parts.finish(self.batch)
        if self.loader.documents:
            return {str(name): column for name, column in as_megatron(self.batch, extra_token=True).items()}
        tokens, labels = self.batch["tokens"][:, :-1].contiguous(), self.batch["tokens"][:, 1:].contiguous()
        place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens).contiguous()
        mask = self.batch["loss_mask"][:, 1:] if "loss_mask" in self.batch else torch.ones_like(labels)
        return {"tokens": tokens, "labels": labels, "loss_mask": mask.float().contiguous(), "position_ids": place}

    def report(self, batch: ms.Batch, loss: Any, *, mask: Any = None, groups: Any = ()) -> None:
        """Report the losses of `batch`, which was `self.batch`, on every rank.

        `loss` is per token, [B, T], and None on ranks that have none, as on all pipeline stages but the last. `mask` is
        as for `Loader.report`. Sums are added up over each of the process `groups` that a row's losses are spread over:
        those of pipeline and of context parallelism.
        """
        domains = len(self.loader.dataset.streams)
        sums_2K = torch.zeros(2, domains, dtype=torch.float64)
        if loss is not None:
            loss, mask = ms.losses.labelled(batch, loss, mask)
            sums_2K = torch.stack(ms.domain_sums(loss, batch.domain, domains, mask=mask))
        where = self.loader.device
        sums_2K = sums_2K.to(where, non_blocking=where.type != "cpu")  # where the groups' backend takes it
        for group in groups:
            torch.distributed.all_reduce(sums_2K, group=group)
        self.loader.report(batch, (sums_2K[0], sums_2K[1]))

    def save_state(self) -> dict[str, Any]:
        """Return the loader's state; Megatron writes it to `train_dataloader_dprankNNN.pt`."""
        return self._parts.state_dict()

    def restore(self, directory: str | Path) -> None:
        """Go on, with any number of ranks, from `iter_0000042` below `--dataloader-save`.

        Raises:
            StateError: it holds no state, or states of several iterations.
        """
        found = sorted(Path(directory).rglob("train_dataloader_dprank*.pt"))
        states = [torch.load(path, weights_only=True)["dataloader_state_dict"] for path in found]
        steps = sorted({str(state.get("step")) for state in states})
        if not states or any(state != states[0] for state in states):
            raise StateError(
                f"the states of the data in {directory} are of the steps [{', '.join(steps)}], "
                "and rows would be read again: give the directory of the one iteration that Megatron goes on from"
            )
        self._parts.load_state_dict(states[0])
        self.batch = ms.Batch()
