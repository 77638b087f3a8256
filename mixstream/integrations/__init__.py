"""Adapters for trainers. Each is a module of its own, which imports its trainer; importing this package imports none.

An adapter holds no position: that is the loader's, and the trainer's checkpoint carries it.

    composer    Composer's Trainer
    hf          the Trainer of transformers, and trainers made from it (TRL)
    lightning   Lightning's Trainer
    megatron    the training loop of Megatron-LM, as its external data loader
    torchtitan  torchtitan's dataloader; torchtitan_trainer: its Trainer, with losses by domain
    packed_batches  batches with marked documents, in the names of each trainer

What a trainer's arguments are refused for is beside it (`hf_arguments`, `lightning_arguments`); `hf_steps` and
`hf_losses` are parts of `hf`. What several adapters need is not here: micro-batches with their position are in
`mixstream.loader`, losses for a log and losses of a model's outputs in `mixstream.losses`.
"""

from typing import TYPE_CHECKING

from mixstream.lazy import lazily

if TYPE_CHECKING:
    from mixstream.integrations import composer, hf, lightning, megatron, packed_batches, torchtitan, torchtitan_trainer

_MODULES = ("composer", "hf", "lightning", "megatron", "packed_batches", "torchtitan", "torchtitan_trainer")
__getattr__, __dir__ = lazily(__name__, {name: [] for name in _MODULES})

__all__ = ["composer", "hf", "lightning", "megatron", "packed_batches", "torchtitan", "torchtitan_trainer"]
