"""Two ranks under accelerate and the Hugging Face Trainer, for `test_trainers.py`. Not a test.

    python trainer_ranks.py RANK PORT ROOT

Prints one JSON object: what this rank read, or the error that it got, by case.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

import torch
from harness import joined, make_dataset, row_ids
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.data.collate import collate_samples


def rows_or_error(make: Callable[[], Any]) -> Any:
    """Return the rows of all batches, or the error's class and text."""
    try:
        return joined(row_ids(batch) for batch in make())
    except Exception as error:
        return [type(error).__name__, str(error)]
    finally:
        torch.distributed.barrier()


def accelerated(root: Path) -> dict[str, Any]:
    """Return what loaders read that accelerate has prepared."""
    from accelerate import Accelerator, DataLoaderConfiguration
    from accelerate.data_loader import prepare_data_loader, skip_first_batches

    def plain(workers: str = "", **kw: Any) -> DataLoader[Any]:
        start = {"num_workers": 2, "multiprocessing_context": workers, "timeout": 60} if workers else {}
        return DataLoader(make_dataset(root, **kw), batch_size=8, collate_fn=collate_samples, **start)

    found: dict[str, Any] = {}
    for dispatch in (True, False, None):
        options = DataLoaderConfiguration(dispatch_batches=dispatch, split_batches=dispatch is None)
        accelerator = Accelerator(cpu=True, dataloader_config=options)
        for workers in ("", "fork", "spawn"):
            loader = plain(workers)
            found[f"plain {dispatch} {workers}"] = rows_or_error(partial(accelerator.prepare, loader))
        found[f"alone {dispatch}"] = rows_or_error(partial(accelerator.prepare, plain(rank=0, world_size=1)))
    model, ours = torch.nn.Linear(2, 2), ms.StreamingDataLoader(make_dataset(root), batch_size=8)
    fast = ms.Loader(make_dataset(root))
    _, prepared, fast_prepared = accelerator.prepare(model, ours, fast)
    found["same"] = prepared is ours and fast_prepared is fast and accelerator.prepare_data_loader(ours) is ours
    accelerator.save_state(str(root / "accelerated"))
    accelerator.free_memory()
    found["streaming"], found["loader"] = rows_or_error(lambda: prepared), rows_or_error(lambda: fast_prepared)
    found["gathered"] = joined(accelerator.gather_for_metrics(batch["tokens"])[:, 0].tolist() for batch in prepared)
    found["rewrapped"] = rows_or_error(
        lambda: prepare_data_loader(ours, put_on_device=True, device=torch.device("cpu"))
    )
    found["skipped"] = rows_or_error(lambda: skip_first_batches(ours, 3))
    fast.close()
    with ms.Loader(make_dataset(root)) as kept:
        accelerator.register_for_checkpointing(kept)
        for _ in zip(range(3), kept):
            pass
        accelerator.save_state(str(root / "kept"))
        accelerator.wait_for_everyone()  # rank 0 writes the position, and no rank waits for it
        rest = joined(map(row_ids, kept))
        accelerator.load_state(str(root / "kept"))
        found["kept"] = [rest, joined(map(row_ids, kept))]
    return found


def trained(root: Path) -> dict[str, Any]:
    """Return what the Trainer reads of a dataset, and of a loader of ours."""
    from transformers import Trainer, TrainingArguments

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.rows: list[int] = []

        def forward(self, tokens: Any, domain: Any = None) -> dict[str, Any]:
            self.rows += tokens[:, 0].tolist()
            return {"loss": (self.weight * tokens.float().mean()).sum(), "logits": tokens.float()}

    class Ours(Trainer):
        def get_train_dataloader(self) -> Any:
            return ms.StreamingDataLoader(self.train_dataset, batch_size=8)

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            return ms.Loader(eval_dataset or self.eval_dataset)

    def trainer(kind: type[Trainer]) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(root / "out"), max_steps=3, per_device_train_batch_size=8, per_device_eval_batch_size=8,
            report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
            learning_rate=0.0, logging_strategy="no",
        )  # fmt: skip
        data = {"train_dataset": make_dataset(root), "eval_dataset": make_dataset(root)}
        return kind(Model(), arguments, data_collator=collate_samples, **data)

    def run(kind: type[Trainer], act: str) -> Any:
        there = trainer(kind)
        try:
            getattr(there, act)()
        except Exception as error:
            return [type(error).__name__, str(error)]
        finally:
            torch.distributed.barrier()
        return there.model.rows

    return {
        f"{kind.__name__} {act}": run(kind, act) for kind in (Trainer, Ours) for act in ("train", "evaluate")
    }  # fmt: skip


def mixed(root: Path) -> dict[str, Any]:
    """Return what `hf.MixTrainer` reads, logs and saves: 2 ranks x 2 micro-batches x 4 rows."""
    from harness import Tilt
    from hf_world import trainer_of

    loader = ms.Loader(make_dataset(root, batch_size=8))
    streams = [ms.Stream(name=name, remote=str(root / name)) for name in loader.dataset.domain_names]
    rows = ms.ValidationSet.open(loader.dataset, streams=streams, rows=13)
    each = {"eval_dataset": rows, "save_strategy": "steps", "save_steps": 2}
    trainer = trainer_of(root, root / "mixed", {"mixer": Tilt(), "lag": 4, "drop_last": False}, **each)
    trainer.train()
    log = trainer.state.log_history
    trainer.evaluate()
    trainer.train()  # goes on
    trainer.compute_metrics = len
    metrics = rows_or_error(trainer.get_eval_dataloader)
    refused = rows_or_error(partial(trainer_of, root, root / "mixed", {"rank": 0, "world_size": 1}))
    loader.close()
    return {
        "mixed rows": trainer.notes.by_step(2),
        "mixed log": log,
        "mixed metrics": metrics,
        "mixed state": trainer.loader.state_dict(),
        "mixed alone": refused,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    rank, port, root = sys.argv[1:4]
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_PORT=port)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    found = accelerated(Path(root)) | trained(Path(root)) | mixed(Path(root))
    Path(root, f"rank-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
