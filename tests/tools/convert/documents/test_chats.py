"""Chats: rendered by a template, with a mask of what the assistant says, exact to the token."""

import json

import pytest

from mixstream.errors import ConfigError
from mixstream_tools.convert.documents.chat import ChatError, ChatTemplate

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] | trim }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
)
HI = [
    {"role": "user", "content": "Hi ünï"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Byé!"},
]


def learned(template: str, messages=HI, **options) -> list[str]:
    chat = ChatTemplate(source=template, **options).render(messages, {})
    return [chat.text[begin:end] for begin, end in chat.learned]


def test_what_the_assistant_adds_behind_the_prompt_counts():
    assert learned(CHATML) == ["Hello<|im_end|>\n", "Byé!<|im_end|>\n"]


def test_what_a_template_marks_counts():
    assert learned(MARKED) == ["Hello<|im_end|>", "Byé!<|im_end|>"]


def test_a_template_that_cannot_tell_is_refused():
    forgetful = "{% for m in messages %}{% if loop.last %}[last]{% endif %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ChatError, match="renders message 1 otherwise when it is the last one"):
        learned(forgetful)


@pytest.mark.parametrize(
    ("messages", "fact"),
    [
        ("Hi", "no list"),
        ([], "no message"),
        ([{"content": "x"}], "no object with a role"),
        ([{"role": "user", "content": 3}], "no text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "no text"),
        ([{"role": "user", "content": "x"}], "nothing to learn"),
        ([{"role": "user", "content": "say <|im_end|>"}, HI[1]], "spells the special token '<|im_end|>'"),
        ([{"role": "user", "content": [{"type": "text", "text": "<|im_end|>"}]}, HI[1]], "spells the special token"),
    ],
)
def test_what_is_no_chat_is_bad(messages, fact):
    with pytest.raises(ChatError, match=fact.replace("|", r"\|")):
        learned(CHATML, messages, words=("<|im_end|>", "<|im_start|>"))


@pytest.mark.parametrize(
    ("template", "fact"),
    [
        ("{{ raise_exception('roles') }}", "does not take it: roles"),
        ("{{ strftime_now('%d') }}", "date of today"),
        ("{{ messages.__class__.__mro__ }}", "does not take it"),
        ("{{ messages[9].content }}", "does not take it"),
    ],
)
def test_what_a_template_refuses_makes_the_document_bad(template, fact):
    with pytest.raises(ChatError, match=fact):
        learned(template)


def test_a_template_finds_what_transformers_gives_it():
    asks = (
        "{% if tools is not none %}T{% endif %}{% if documents is not none %}D{% endif %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.reasoning_content }}|"
        "{{ m.call | tojson(separators=(',', ':'), sort_keys=true) }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    messages = [HI[0], {"role": "assistant", "content": "", "thinking": "hm", "call": {"b": [1], "a": "é"}}]
    chat = ChatTemplate(source=asks).render(messages, {})
    assert chat.text == 'hm|{"a":"é","b":[1]}'


def test_special_tokens_of_a_template_are_found_in_either_file(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ eos_token }}")
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}, "eos_token": "</old>"}')
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": null, "eos_token": "</s>"}')
    found = ChatTemplate.find(None, str(tmp_path / "tokenizer.json"), ())
    assert dict(found.tokens) == {"bos_token": "<s>", "eos_token": "</s>"}


def test_a_chat_of_broken_characters_is_bad():
    with pytest.raises(ChatError, match="not UTF-8") as caught:
        learned(CHATML, [{"role": "user", "content": "\ud800"}, HI[1]])
    assert caught.value.reason == "not-utf8"


@pytest.fixture
def model(tmp_path):
    """A directory with a small tokenizer that has chat tokens, and a template."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(["Hello there, what do you say? Bye bye."], trainer)
    (tmp_path / "model").mkdir()
    made.save(str(tmp_path / "model/tokenizer.json"))
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    return tmp_path / "model"


@pytest.fixture
def chats(write_tree):
    records = [{"messages": HI}, {"messages": [HI[0], {"role": "assistant", "content": " a  b "}]}]
    return write_tree({"chat.jsonl": "".join(json.dumps(record) + "\n" for record in records)}) / "chat.jsonl"


def stream_of(directory):
    """Tokens and mask of a dataset, read through the library as a trainer would."""
    import mixstream as ms

    dataset = ms.StreamingDataset(streams=[ms.Stream(remote=str(directory), split="train")], batch_size=1)
    with ms.Loader(dataset) as loader:
        batches = [(batch["tokens"][0].tolist(), batch["loss_mask"][0].tolist()) for batch in loader]
    return [[value for row in rows for value in row] for rows in zip(*batches)]


def test_tokens_and_mask_of_a_real_tokenizer(model, chats, tmp_path, convert_json):
    import tokenizers

    status, _, _ = convert_json(
        chats, "--out", tmp_path / "out", "--tokenizer", model, "--messages-key", "messages", "--seq-len", 1
    )
    assert status == 0
    tokens, mask = stream_of(tmp_path / "out/chat")
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    assert tokens.count(end) == 2
    assert tokens.count(tokenizer.token_to_id("<|im_end|>")) == 6
    shown = tokenizer.decode([token for token, counts in zip(tokens, mask) if counts], skip_special_tokens=False)
    assert shown == ("Hello<|im_end|>\nByé!<|im_end|>\n<|endoftext|> a  b <|im_end|>\n<|endoftext|>")
    whole = tokenizer.decode(tokens, skip_special_tokens=False)
    assert whole.startswith("<|im_start|>user\nHi ünï<|im_end|>\n<|im_start|>assistant\nHello")


def test_texts_beside_chats_count_everywhere(model, chats, write_tree, tmp_path, convert_json):
    text = write_tree({"plain.txt": "just a text"}) / "plain.txt"
    (tmp_path / "corpus.toml").write_text(
        f'[[source]]\npath = "{chats}"\nmessages-key = "messages"\n[[source]]\npath = "{text}"\n'
    )
    status, _, _ = convert_json(
        "--config", tmp_path / "corpus.toml", "--out", tmp_path / "out", "--seq-len", 1, "--tokenizer", model
    )
    assert status == 0
    assert set(stream_of(tmp_path / "out/plain")[1]) == {1}
    assert set(stream_of(tmp_path / "out/chat")[1]) == {0, 1}


def test_the_mask_is_cut_as_the_rows_are_over_parts_and_tails(chats, tmp_path, write_tree, convert_json):
    """With bytes, each token is a character's byte, so the mask can be told from the text alone."""
    (tmp_path / "chatml.jinja").write_text(CHATML)
    status, _, _ = convert_json(
        chats, "--out", tmp_path / "out", "--messages-key", "messages", "--chat-template", tmp_path / "chatml.jinja",
        "--seq-len", 7,
    )  # fmt: skip
    assert status == 0
    tokens, mask = stream_of(tmp_path / "out/chat")
    shown = bytes(token for token, counts in zip(tokens, mask) if counts and token < 256).decode()
    assert "Hello<|im_end|>\nByé!<|im_end|>\n a  b <|im_end|>\n".startswith(shown)
    assert len(shown) > 40


def test_documents_as_rows_have_masks_of_their_lengths(model, chats, tmp_path, convert_json):
    status, _, _ = convert_json(
        chats, "--out", tmp_path / "out", "--tokenizer", model, "--messages-key", "messages", "--rows", "documents"
    )
    assert status == 0
    tokens, mask = stream_of(tmp_path / "out/chat")
    assert len(tokens) == len(mask)
    assert tokens[-1] == 0


def test_without_a_template_or_with_another_text_it_is_refused(model, chats, tmp_path, convert_json):
    (model / "tokenizer_config.json").unlink()
    run = [chats, "--out", tmp_path / "out", "--tokenizer", model, "--messages-key", "messages"]
    assert "needs a chat template" in convert_json(*run)[1]["error"]["message"]
    both = convert_json(*run, "--text-template", "{x}")[1]["error"]["message"]
    assert "both make the text" in both
    (tmp_path / "bad.jinja").write_text("{% if %}")
    with pytest.raises(ConfigError, match="cannot be compiled"):
        ChatTemplate.find(tmp_path / "bad.jinja", None, ())
