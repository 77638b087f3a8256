"""`mixstream convert`: its options and its help. The work is in job.py, and what it prints in report.py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from mixstream.errors import ConfigError
from mixstream.storage import redact

from ..shared.console import Console
from . import shard_options
from .array import shares
from .array.shares import ArrayOptions, refuse_in_share
from .array.task import convert_share
from .documents import options as documents_options
from .documents.options import DocumentOptions
from .job import run_conversion
from .panels import MACHINES, OUTPUT
from .publish import options as store_options
from .publish.options import StoreOptions
from .report import note_tokens, report, report_share
from .shard_options import ShardOptions
from .sources import config as config_file
from .sources import options as source_options
from .sources.config import read_config
from .sources.options import SourceOptions
from .tokens import options as token_options
from .tokens.chat_tokens import check_chats
from .tokens.options import TokenOptions
from .tokens.tokenizer import TokenizerSpec, describe_tokenizer
from .train_bpe import BpeTraining
from .work.rejects import MaxRejects

_Path = Annotated[Path | None, Parameter(show_default=False)]
_Patterns = Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=False, show_default=False)]
_Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
_Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
_OUTPUT = Parameter(group=OUTPUT)
_TOPICS = (
    source_options.TOPICS,
    documents_options.TOPICS,
    source_options.BAD_DOCUMENTS,
    token_options.TOPICS,
    shard_options.TOPICS,
    store_options.TOPICS,
    config_file.TOPICS,
    shares.TOPICS,
)


def _with_topics(function: Callable[..., int]) -> Callable[..., int]:
    """Put what is said beside the options into the help of the command, before its arguments."""
    head, arguments, rest = (function.__doc__ or "").partition("Args:")
    topics = "\n".join(_TOPICS).replace("\n", "\n    ")
    function.__doc__ = f"{head}{topics}\n    {arguments}{rest}"
    return function


@_with_topics
def convert(
    *sources: Annotated[str, Parameter(name="SRC")],
    out: str,
    config: _Path = None,
    tokens: TokenOptions = TokenOptions(),  # noqa: B008  # frozen, like those below
    shards: ShardOptions = ShardOptions(),  # noqa: B008
    documents: DocumentOptions = DocumentOptions(),  # noqa: B008
    files: SourceOptions = SourceOptions(),  # noqa: B008
    array: Annotated[ArrayOptions, Parameter(group=MACHINES)] = ArrayOptions(),  # noqa: B008
    overwrite: Annotated[_Flag, _OUTPUT] = False,
    remove: Annotated[_Patterns, _OUTPUT] = (),
    store: StoreOptions = StoreOptions(),  # noqa: B008
    as_json: Annotated[_Json, _OUTPUT] = False,
) -> int:
    """Turn text, tables, crawls and archives into tokenised shards, by domain.

    mixstream convert corpus/ --out shards/
    mixstream convert web=crawl/ code=src/ --out shards/ --val-fraction 0.01
    mixstream convert crawl/ --out s3://corpora/v1 --part $SLURM_ARRAY_TASK_ID/64
    mixstream convert pile/*.zst --out shards/ --domain-key meta.pile_set_name \\
        --tokenizer llama/tokenizer.json --seq-len 4096 --workers 16

    Read one with Stream(remote="shards/web", split="train").

    Args:
        sources: files, directories, patterns, URLs, - for standard input, or NAME= and one of them.
        config: TOML file with further sources, each with options of its own: see CONFIG.
        out: directory or URL for the datasets: new, empty, or one to resume.
        tokens: how text becomes tokens.
        shards: how tokens become shards.
        documents: what a document is.
        files: which files are read.
        array: how the work is split.
        overwrite: replace domains that SRC names and that other options or sources made; all others stay.
        remove: a domain to remove from --out; may be repeated, with or without SRC.
        store: where the work for a store is done.
        as_json: print one JSON document, not a table.
    """
    if array.workers == 1:
        os.environ.setdefault("RAYON_NUM_THREADS", "1")  # this process is the worker; its tokenizer is not loaded yet
    console = Console(as_json=as_json)
    described, train = _tokenizer(tokens)
    about = {
        "extract": None if files.extract == "none" else files.extract,
        "forbidden": (described if train is None else train).words if tokens.special_tokens == "error" else (),
        "tokenizer": described.path,
        "words": described.words if tokens.special_tokens != "parse" else (),
    }
    choice = files.choice()
    further = read_config(config, documents, choice, about) if config is not None else []
    if chats := documents.messages_key is not None or any(each.fields and each.fields.chat for each in further):
        check_chats(described)
    recipe = shards.recipe(
        described,
        documents.fields(**about),
        chats=bool(chats),
        on_bad_document=files.on_bad_document if files.max_rejects is None else "skip",
    )
    note_tokens(console, described, tokens.tokenizer)
    start = time.monotonic()
    directory, remote = store.place(out, console)
    limit = None if files.max_rejects is None else MaxRejects.parse(files.max_rejects)
    common: dict[str, Any] = {
        "out": directory,
        "recipe": recipe,
        "choice": choice,
        "options": array,
        "overwrite": overwrite,
        "max_rejects": limit,
        "remote": remote,
        "console": console,
    }
    if array.share is not None:
        refuse_in_share(remove=bool(remove), train=train is not None, share_of_rejects=limit)
        told = convert_share([*sources, *further], **common)
        return report_share(console, told, redact(out), time.monotonic() - start)
    summary = run_conversion([*sources, *further], remove=remove, train=train, **common)
    report(console, summary, redact(out), time.monotonic() - start)
    return 1 if summary["faults"] else 0


def _tokenizer(tokens: TokenOptions) -> tuple[TokenizerSpec, BpeTraining | None]:
    """The tokenizer, or one that stands for it until it is trained, and the training."""
    if tokens.train_bpe is None:
        return tokens.describe(), None
    if tokens.tokenizer != "bytes":
        raise ConfigError(
            f"--train-bpe {tokens.train_bpe} makes a tokenizer; leave out --tokenizer {tokens.tokenizer}."
        )
    train = BpeTraining.of_options(
        tokens.train_bpe, eos=tokens.eos, bos=tokens.bos, special_tokens=tokens.special_tokens
    )
    return describe_tokenizer("bytes", None if train.words else "none"), train
