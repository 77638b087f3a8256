"""`mixstream convert`: text and JSON → tokenised MDS shards, one dataset for each domain.

In the order of the flow (job.py draws it):

    command.py     options and help                  job.py        wires the rest
    sources.py     SRC → domains and files           listing.py    directories and patterns → files
    sniff.py       what a file is                    foreign.py    formats that are refused, and the way in
    files.py       stored bytes, decompressed        readers/      one format a file → documents
    separators.py  `--document-separator`            domain_names  which names a domain can have
    parts.py       files → units of work             tokenizer.py  text → ids
    work.py        one unit of work                  long_texts.py long documents, cut unseen by the tokenizer
    ledger.py      which units are done              packer.py     ids → rows → shards
    groups.py      what an output holds already      publish.py    units → index.json
    run_file.py    run.json: groups and their recipe finished.py   which groups are published
    recipe.py      the options that decide bytes     remote.py     the result → an object store
                                                     uploads.py    which objects are uploaded

A new source format is a reader (`readers.READERS`), a new tokenizer a spec and a class with `encode`. Where the work
runs is an executor (`shared/executors/`).

The law: output bytes are a function of the recipe and the sources. Workers, restarts and `kill -9` change none of them.
"""

from .job import run_conversion
from .readers import Fields
from .recipe import Recipe
from .tokenizer import describe_tokenizer

__all__ = ["Fields", "Recipe", "describe_tokenizer", "run_conversion"]
