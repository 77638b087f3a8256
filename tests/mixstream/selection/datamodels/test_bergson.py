"""The same gradients as bergson, an attribution library, from the same transformers model; features and scores follow.

Its gradients are taken before any projection, so they are compared number by number, and no noise of a projection is in
the way.

Skipped where bergson is not installed. It declares packages that it does not need here and that would replace torch, so
install the others that it declares (accelerate, datasets, jaxtyping, peft, ...), then `pip install --no-deps bergson`.
Run with bergson 2.5.1.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_lm import LENGTH, WORDS, make_world  # pyright: ignore[reportMissingImports]

from mixstream.selection.datamodels import (
    Output,
    Projector,
    Proxy,
    attribute,
    causal_call,
    chosen_parameters,
    per_sample_gradients,
)

ROWS, QUERIES, DIMS, KEY = 60, 12, 48, 3


def trained_gpt2(docs: torch.Tensor):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        model(docs, labels=docs).loss.backward()
        optimizer.step()
    return model.eval()


def gradients_of_bergson(model, rows: list[np.ndarray], where: Path, *, loss_fn: str, bias: bool) -> torch.Tensor:
    """Return bergson's gradients of the loss, without projection, [N, P], in the order of the model's parameters."""
    from bergson.collection import collect_gradients  # pyright: ignore[reportMissingImports]
    from bergson.config.config import IndexConfig  # pyright: ignore[reportMissingImports]
    from bergson.data import load_gradients  # pyright: ignore[reportMissingImports]
    from bergson.gradients import GradientProcessor  # pyright: ignore[reportMissingImports]
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    config = IndexConfig(
        run_path=str(where),
        model="unused",
        precision="fp32",
        projection_dim=0,
        include_bias=bias,
        loss_fn=loss_fn,
        loss_reduction="mean",
    )
    config.partial_run_path.mkdir(parents=True)
    collect_gradients(
        model=model,
        data=Dataset.from_dict({"input_ids": [row.tolist() for row in rows], "length": [len(row) for row in rows]}),
        processor=GradientProcessor(projection_dim=0, include_bias=bias),
        cfg=config,
        batches=[list(range(begin, min(begin + 16, len(rows)))) for begin in range(0, len(rows), 16)],
    )
    flat = np.array(load_gradients(config.partial_run_path))
    parts, begin = [], 0
    # bergson's columns follow the modules of the model; each is [outputs, inputs (+ 1, the bias)].
    for module in model.base_model.modules():
        if type(module).__name__ == "Conv1D":  # whose weight is [inputs, outputs]
            inputs, outputs = module.weight.shape
            end = begin + outputs * (inputs + bias)
            both = flat[:, begin:end].reshape(len(rows), outputs, inputs + bias)
            parts.append(both[..., :inputs].swapaxes(1, 2).reshape(len(rows), -1))
            if bias:
                parts.append(both[..., inputs])
            begin = end
    assert begin == flat.shape[1]
    return torch.from_numpy(np.concatenate(parts, axis=1))


@pytest.mark.filterwarnings("ignore")  # bergson's own
@pytest.mark.parametrize(("output", "loss_fn"), [("log-odds", "log_odds"), ("loss", "ce")])
@pytest.mark.parametrize("bias", [False, True])
def test_features_and_scores_equal_those_of_bergson(tmp_path: Path, output: Output, loss_fn: str, bias: bool) -> None:
    pytest.importorskip("bergson")
    world = make_world()
    model = trained_gpt2(world.docs_NT[:ROWS])
    # Rows of unequal lengths, so that padding is compared too. None is without a token to predict: there bergson's mean
    # log-odds are 0 / 0.
    rows = [row[: LENGTH - at % 5] for at, row in enumerate(world.docs_NT[:ROWS].numpy())]
    queries = list(world.queries_QT[:QUERIES].numpy())
    # bergson hooks linear layers below the head: in GPT-2, c_attn, c_proj and c_fc; no embedding and no norm.
    patterns = ["transformer.h.*.c_*" if bias else "transformer.h.*.c_*.weight"]
    theirs = gradients_of_bergson(model, rows + queries, tmp_path / "run", loss_fn=loss_fn, bias=bias)
    assert theirs.shape[1] == 2 * (12 * 16**2 + bias * 9 * 16)
    theirs = -theirs  # they differentiate the loss, we the output: minus the loss

    parameters = chosen_parameters(model, patterns)
    for row, gradient in zip(rows + queries, theirs, strict=True):
        tokens = torch.from_numpy(row)[None]
        ours, _ = per_sample_gradients(
            causal_call(model, output=output), parameters, tokens, torch.ones_like(tokens, dtype=torch.bool)
        )
        np.testing.assert_allclose(ours[0], gradient, rtol=0, atol=1e-5 * gradient.abs().max().item())

    proxy = Proxy(model, dims=DIMS, key=KEY, output=output, parameters=patterns)
    made, target = proxy.features(rows), proxy.features(queries)
    projected = Projector(proxy.projection)(theirs).numpy()
    ours = np.concatenate([made.phi_NF, target.phi_NF])
    np.testing.assert_allclose(ours, projected, rtol=0, atol=1e-5 * np.abs(projected).max())

    weight = made.one_minus_p_N if output == "log-odds" else np.ones(ROWS, np.float32)
    score, _ = attribute([made.phi_NF], [target.phi_NF], [weight], damping=1.0)
    # The estimator written down again, for their gradients; its scale is that of all scores.
    phi, query = projected[:ROWS].astype(np.float64), projected[ROWS:].astype(np.float64)
    gram = phi.T @ phi
    expected = query @ np.linalg.solve(gram + gram.trace() / DIMS * np.eye(DIMS), phi.T) * weight
    expected *= np.linalg.norm(score) / np.linalg.norm(expected)
    np.testing.assert_allclose(score, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
