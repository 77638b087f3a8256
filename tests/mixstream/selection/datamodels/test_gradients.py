"""Per-sample gradients equal those of a loop, for any model; features do not depend on how rows are chunked."""

import numpy as np
import pytest
import torch
from torch import nn

from mixstream.errors import ConfigError
from mixstream.selection import FAILED, SCORED, TOO_SHORT
from mixstream.selection.datamodels import (
    Projection,
    Projector,
    Proxy,
    causal_call,
    chosen_parameters,
    per_sample_gradients,
    row_output,
)
from mixstream.selection.datamodels.gradients import chunks, padded, probe

VOCABULARY = 23


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Tiny(nn.Module):
    """A causal model that is none of transformers': each position sees the mean of those up to it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 6)
        self.mix = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Dropout(0.5), nn.Linear(12, VOCABULARY))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states = self.embed(tokens).cumsum(1) / torch.arange(1, tokens.shape[1] + 1)[:, None]
        return self.mix(states)


class Torch(nn.Module):
    """A model of torch's own layers, which have a fused path for evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, 16), nn.Linear(16, VOCABULARY)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layers(self.embed(tokens), mask=mask, is_causal=True))


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "tiny":
        return Tiny()
    if name == "torch":
        return Torch()
    transformers = pytest.importorskip("transformers")
    kind, attention = name.split("-")
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, attn_implementation=attention
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        attn_implementation=attention,
    )
    return transformers.LlamaForCausalLM(config)


def looped(model: nn.Module, row: np.ndarray, output: str) -> tuple[torch.Tensor, float]:
    """The gradient of one row, by plain autograd."""
    model.zero_grad()
    tokens = torch.from_numpy(row.astype(np.int64))
    result = model(tokens[None])
    logits = result if isinstance(result, torch.Tensor) else result.logits
    f, p = row_output(logits[0, :-1], tokens[1:], torch.ones(len(row) - 1, dtype=torch.bool), output=output)
    f.backward()
    return torch.cat([each.grad.reshape(-1) for each in model.parameters()]), p.item()


def rows_of(*lengths: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, VOCABULARY, length).astype(np.uint16) for length in lengths]


def batch_of(rows: list[np.ndarray]) -> list[torch.Tensor]:
    """Tokens and which of them count."""
    masks = [np.ones(len(row), bool) for row in rows]
    return [torch.from_numpy(padded(each, dtype)) for each, dtype in ((rows, np.int64), (masks, np.bool_))]


MODELS = ["tiny", "torch", "gpt2-eager", "gpt2-sdpa", "llama-eager", "llama-sdpa"]


@pytest.mark.parametrize("output", ["log-odds", "loss"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_equal_those_of_a_loop(name: str, output: str) -> None:
    model, rows = model_of(name), rows_of(9, 12, 2, 5)
    call, parameters = causal_call(model, output=output), chosen_parameters(model)
    tokens, counted = batch_of(rows)
    gradients, probabilities = per_sample_gradients(call, parameters, tokens, counted)
    for row, gradient, probability in zip(rows, gradients, probabilities):
        expected, p = looped(model, row, output)
        torch.testing.assert_close(gradient, expected, atol=2e-6, rtol=1e-4)
        assert probability.item() == pytest.approx(p, abs=1e-6)


def test_parameters_are_chosen_by_pattern() -> None:
    model = model_of("tiny")
    assert list(chosen_parameters(model, ["mix.*.weight", "embed.*"])) == [
        "embed.weight",
        "mix.0.weight",
        "mix.3.weight",
    ]
    model.embed.requires_grad_(False)
    assert "embed.weight" not in chosen_parameters(model)
    with pytest.raises(ConfigError, match=r"no trainable parameter matches 'embed.\*'"):
        chosen_parameters(model, ["embed.*"])
    with pytest.raises(ConfigError, match="no trainable parameter"):
        chosen_parameters(model.requires_grad_(False))


def test_features_do_not_depend_on_chunks_or_neighbours() -> None:
    rows = rows_of(9, 12, 2, 5, 16, 3, 3, 7)
    made = [Proxy(model_of("tiny"), dims=32, key=3, memory=memory).features(rows) for memory in (1, 40_000, 1 << 30)]
    alone = Proxy(model_of("tiny"), dims=32, key=3)
    for each in made:
        np.testing.assert_allclose(each.phi_NF, made[0].phi_NF, atol=1e-5)
        np.testing.assert_allclose(each.one_minus_p_N, made[0].one_minus_p_N, atol=1e-6)
    for row, phi in zip(rows, made[0].phi_NF):
        np.testing.assert_array_equal(alone.features([row]).phi_NF[0], phi)


def test_rows_without_a_predicted_token_are_flagged_and_change_no_other() -> None:
    proxy = Proxy(model_of("tiny"), dims=16, key=3, pad=0)
    rows = rows_of(6, 1, 0, 7)
    rows[0][0] = 5
    only_padding = np.array([4, 0, 0, 0], np.int32)
    features = proxy.features([*rows, only_padding])
    assert features.flags_N.tolist() == [SCORED, TOO_SHORT, TOO_SHORT, SCORED, TOO_SHORT]
    assert (features.phi_NF[[1, 2, 4]] == 0).all()
    assert (features.phi_NF[[0, 3]] != 0).any(axis=1).all()
    np.testing.assert_allclose(proxy.features([rows[0], rows[3]]).phi_NF, features.phi_NF[[0, 3]], atol=1e-6)


def test_padding_of_the_dataset_counts_as_absent() -> None:
    rows = [np.array([3, 4, 5], np.int32), np.array([3, 4, 5, 9, 9], np.int32)]
    features = Proxy(model_of("tiny"), dims=16, key=3, pad=9).features(rows)
    np.testing.assert_allclose(features.phi_NF[1], features.phi_NF[0], atol=1e-6)


def test_only_the_tokens_that_count_are_predicted() -> None:
    """A question and its answer: the gradient is that of the answer's log-odds, given the question."""
    model, row = model_of("tiny"), np.array([3, 4, 5, 6, 7])
    mask = np.array([False, False, False, True, True])
    features = Proxy(model, dims=16, key=3).features([row, row, row[:2]], [mask, ~mask, np.array([True, False])])
    assert features.flags_N.tolist() == [SCORED, SCORED, TOO_SHORT]
    tokens, counted = torch.from_numpy(row)[None], torch.from_numpy(mask)[None]
    gradient, _ = per_sample_gradients(causal_call(model), chosen_parameters(model), tokens, counted)
    expected = Projector(Projection(inputs=gradient.shape[1], outputs=16, key=3))(gradient)
    np.testing.assert_allclose(features.phi_NF[0], expected[0], atol=1e-6)
    whole = Proxy(model, dims=16, key=3).features([row])
    np.testing.assert_allclose(features.phi_NF[:2].mean(axis=0), whole.phi_NF[0], atol=1e-6)


def test_a_gradient_that_is_not_finite_is_flagged_as_failed() -> None:
    model = model_of("tiny")
    with torch.no_grad():
        model.embed.weight[7] = torch.nan
    features = Proxy(model, dims=8, key=1).features([np.array([1, 2, 3]), np.array([1, 7, 3])])
    assert features.flags_N.tolist() == [SCORED, FAILED]
    assert np.isfinite(features.phi_NF).all()
    assert (features.phi_NF[1] == 0).all()


def test_features_keep_inner_products() -> None:
    model, rows = model_of("tiny"), rows_of(*[12] * 20)
    tokens, counted = batch_of(rows)
    exact, _ = per_sample_gradients(causal_call(model), chosen_parameters(model), tokens, counted)
    exact = (exact @ exact.T).numpy()
    phi = Proxy(model, dims=4096, key=3).features(rows).phi_NF
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert np.abs((phi @ phi.T - exact) / scale).max() < 5 * np.sqrt(2 / 4096)


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must return logits \[1, T, V\]"):
        Proxy(nn.Sequential(nn.Embedding(VOCABULARY, 6), nn.Flatten()), dims=4, key=0)
    with pytest.raises(ConfigError, match="log-odds, loss"):
        Proxy(model_of("tiny"), dims=4, key=0, output="margin")


def test_rows_that_a_model_cannot_read_are_refused() -> None:
    proxy = Proxy(model_of("gpt2-eager"), dims=4, key=0)
    proxy.features([np.arange(16)])
    with pytest.raises(ConfigError, match="17 tokens, the proxy model reads 16"):
        proxy.features([np.arange(17)])
    with pytest.raises(ConfigError, match="tokens 3 to 23, the proxy model has a vocabulary of 23"):
        proxy.features([np.array([3, 23])])


def test_chunks_stay_within_memory_and_lose_no_row() -> None:
    lengths = [3, 9, 1, 1, 1, 30, 2, 2]
    cuts = list(chunks(lengths, of_token=10, of_row=5, memory=120))
    assert [row for cut in cuts for row in range(cut.start, cut.stop)] == list(range(8))
    for cut in cuts:
        rows = lengths[cut]
        assert len(rows) == 1 or len(rows) * (5 + 10 * max(rows)) <= 120
    assert list(chunks([], of_token=1, of_row=1, memory=1)) == []


def test_the_memory_of_a_token_grows_with_the_model() -> None:
    """At least what the logits and the MLPs hold."""
    assert probe(model_of("gpt2-eager")).token_bytes > 4 * (2 * VOCABULARY + 2 * 4 * 16)
    assert probe(model_of("gpt2-eager")).vocabulary == VOCABULARY
