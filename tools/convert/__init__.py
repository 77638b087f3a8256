"""`mixstream convert`: text, tables, crawls and archives → tokenised MDS shards, one dataset for each domain.

In the order of the flow (job.py draws it); each package says what its files are:

    command.py     options and help                  job.py        connects the rest
    shard_options.py  tokens → shards; the other options are in the packages (options.py)
    documents/     what a document is                recipe.py     the options that decide bytes
    sources/       SRC → domains and their files     files/        their bytes, on disk and in stores
    listed.py      the sources of a command          parts.py      files → units of work
    build.py       converts, publishes, sums up      train_bpe.py  `--train-bpe`
    groups.py      what an output holds already      report.py     what the command prints
    readers/       one format a file → documents     tokens/       text → ids
    work/          one unit of work → shards         array/        `--part I/N`: on several machines
    sidecar/       where each document lies          card/         what the documents are like
    ledger/        which units are done              publish/      units → index.json → an object store

A new source format is a reader (`readers.READERS`), a new kind of tokenizer a file in `shared/tokenizers/`. Where the
work runs is an executor (`shared/executors/`).

The law: output bytes are a function of the recipe and the sources. Workers, restarts and `kill -9` change none of them.
"""

from .array.shares import ArrayOptions
from .array.task import convert_share
from .documents.fields import Fields
from .job import run_conversion
from .recipe import Recipe
from .tokens.tokenizer import describe_tokenizer

__all__ = ["ArrayOptions", "Fields", "Recipe", "convert_share", "describe_tokenizer", "run_conversion"]
