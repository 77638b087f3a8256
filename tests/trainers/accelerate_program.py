"""Trains with accelerate, gradients accumulated, as `torchrun accelerate_program.py JSON`; see test_accelerate.py."""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

import mixstream as ms

given = json.loads(sys.argv[1])
out, rank, ranks = Path(given["out"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
streams = [ms.Stream(remote=f"{given['shards']}/{name}", split="train") for name in ("web", "code")]
loader = ms.Loader(ms.StreamingDataset(streams=streams, batch_size=8 // ranks, shuffle=True, mixer=ms.mixers.ODM()))
model = torch.nn.Sequential(torch.nn.Embedding(320, 16), torch.nn.Linear(16, 320))
model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), loader)
accelerator.register_for_checkpointing(loader)
if given.get("load"):
    accelerator.load_state(given["load"])
with (out / f"rows-{ranks}-{rank}.jsonl").open("w") as notes:
    while loader.step < given["steps"]:
        for batch in loader:
            with accelerator.accumulate(model):
                tokens = batch["tokens"].long()
                logits = model(tokens[:, :-1])
                loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
                accelerator.backward(loss.mean())
                optimizer.step()
                optimizer.zero_grad()
            loader.report(batch, loss)
            notes.write(json.dumps([batch.step, batch["tokens"].tolist()]) + "\n")
            if loader.step == given["steps"]:
                break
if given.get("save") == "rank 0" and rank == 0:
    torch.save(loader.state_dict(), out / "loader.pt")
elif given.get("save") == "all":
    accelerator.save_state(str(out / "state"))
accelerator.wait_for_everyone()
(out / f"state-{ranks}-{rank}.json").write_text(json.dumps(loader.state_dict()))
loader.close()
torch.distributed.destroy_process_group()
