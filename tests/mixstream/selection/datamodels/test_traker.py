"""The same scores as traker, the released implementation of TRAK, from the same models and the same projections.

Skipped where traker is not installed: `pip install traker` (it needs torch, numpy and tqdm only).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_lm import make_world, train  # pyright: ignore[reportMissingImports]

from mixstream.selection.datamodels import Projection, Projector, Proxy, attribute, row_output

DIMS, ROWS, QUERIES = 64, 300, 12


@pytest.mark.filterwarnings("ignore")  # traker's own
@pytest.mark.parametrize("relative_damping", [0.0, 0.1])
def test_scores_equal_those_of_traker(tmp_path: Path, relative_damping: float) -> None:
    trak = pytest.importorskip("trak")
    from trak.modelout_functions import AbstractModelOutput  # pyright: ignore[reportMissingImports]
    from trak.projectors import AbstractProjector  # pyright: ignore[reportMissingImports]

    world = make_world()
    docs, queries = world.docs_NT[:ROWS], world.queries_QT[:QUERIES]
    models = [train(docs, seed=seed, steps=20, batch=32) for seed in range(2)]
    proxies = [Proxy(model, dims=DIMS, key=member) for member, model in enumerate(models)]
    rows = [proxy.features(list(docs.numpy())) for proxy in proxies]
    targets = [proxy.features(list(queries.numpy())).phi_NF for proxy in proxies]

    class Output(AbstractModelOutput):
        def __init__(self) -> None: ...

        @staticmethod
        def get_output(model, weights, buffers, tokens):
            logits = torch.func.functional_call(model, (weights, buffers), (tokens[None],))[0, :-1]
            return row_output(logits, tokens[1:], torch.ones_like(tokens[1:], dtype=torch.bool), output="log-odds")[0]

        def get_out_to_loss_grad(self, model, weights, buffers, batch):
            logits = torch.func.functional_call(model, (weights, buffers), batch)[:, :-1]
            p = logits.softmax(-1).gather(-1, batch[0][:, 1:, None])[..., 0].mean(1)
            return (1 - p).detach()[:, None]

    class Ours(AbstractProjector):
        proj_dim, proj_type = DIMS, "rademacher"

        def __init__(self) -> None: ...

        def project(self, grads, model_id):
            flat = torch.cat([each.flatten(1) for each in grads.values()], dim=1)
            return Projector(Projection(inputs=flat.shape[1], outputs=DIMS, key=model_id))(flat)

        def free_memory(self) -> None: ...

    score = np.zeros((QUERIES, ROWS))
    weight = np.zeros(ROWS)
    for member, (model, made) in enumerate(zip(models, rows)):
        # traker's damping is absolute, and its features are ours over a factor of its own, measured here: with one
        # member the factor cancels from the scores, since the inverse is scaled.
        traker = trak.TRAKer(
            model=model,
            task=Output(),
            train_set_size=ROWS,
            save_dir=tmp_path / f"{member}-{relative_damping}",
            device="cpu",
            projector=Ours(),
            use_half_precision=False,
            logging_level=40,
            lambda_reg=0.0,
        )
        traker.load_checkpoint(model.state_dict(), model_id=member)
        traker.featurize(batch=(docs,), num_samples=ROWS)
        theirs = np.array(traker.saver.current_store["grads"])
        np.testing.assert_allclose(
            theirs / np.linalg.norm(theirs), made.phi_NF / np.linalg.norm(made.phi_NF), rtol=1e-3, atol=1e-7
        )
        traker.score_computer.lambda_reg = relative_damping * (theirs**2).sum() / DIMS
        traker.finalize_features()
        traker.start_scoring_checkpoint(
            exp_name="q", checkpoint=model.state_dict(), model_id=member, num_targets=QUERIES
        )
        traker.score(batch=(queries,), num_samples=QUERIES)
        their_score = np.array(traker.finalize_scores(exp_name="q")).T
        ours, _ = attribute([made.phi_NF], [targets[member]], [made.one_minus_p_N], damping=relative_damping)
        assert np.corrcoef(ours.ravel(), their_score.ravel())[0, 1] > 0.999_99
        # Their factor of the features, squared, is all that is left.
        ratio = (ours * their_score).sum() / (their_score**2).sum()
        np.testing.assert_allclose(their_score * ratio, ours, atol=1e-3 * np.abs(ours).max())
        score += their_score * ratio / made.one_minus_p_N / len(models)
        weight += made.one_minus_p_N / len(models)
    ensemble, _ = attribute(
        [each.phi_NF for each in rows], targets, [each.one_minus_p_N for each in rows], damping=relative_damping
    )
    np.testing.assert_allclose(ensemble, score * weight, atol=1e-3 * np.abs(ensemble).max())
