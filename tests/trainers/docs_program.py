"""Runs a block of docs/trainers.md, as `torchrun docs_program.py JSON`; see test_docs.py.

Before it, there is what its reader has: a model and, for torchtitan, a small configuration in place of the debug model.
"""

import json
import sys

given = json.loads(sys.argv[1])
names = {}

if given["trainer"] == "torchtitan":
    import torchtitan_on_cpu  # noqa: F401 - before torchtitan
    from torchtitan.models.llama3 import config_registry

    whole = config_registry.llama3_debugmodel

    def small():
        """Return torchtitan's debug model, smaller, and with the tokenizer that is here."""
        config = whole()
        config.model_spec.model.layers = config.model_spec.model.layers[:1]
        config.training.seq_len, config.training.steps, config.training.local_batch_size = 256, 3, 4
        config.hf_assets_path, config.validator.enable = given["tokenizer"], False
        return config

    config_registry.llama3_debugmodel = small
elif given["trainer"] == "Composer":
    import torch
    from composer import ComposerModel
    from torch.nn.functional import cross_entropy

    class Model(ComposerModel):
        """Predicts each byte from the one before."""

        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Embedding(257, 8), torch.nn.Linear(8, 257))

        def forward(self, batch):
            return self.net(batch["tokens"][:, :-1])

        def loss(self, outputs, batch):
            return cross_entropy(outputs.transpose(1, 2), batch["tokens"][:, 1:])

    names["model"] = Model()
else:
    import foundry  # noqa: F401 - before llmfoundry

exec(compile(given["code"], "docs/trainers.md", "exec"), names)
sys.stdout.write("the block has run\n")
