"""Programs written for mosaicml-streaming, unchanged: `import streaming` and its deep names resolve to mixstream.

    import mixstream.compat

    mixstream.compat.install()  # before the first `import streaming`

or, for a program that cannot be edited at all:

    python -m mixstream.compat train.py --its --arguments

From the top down:

    alias        `install()`: the finder that answers `import streaming`, and what child processes need
    names        the table: module of mosaicml-streaming -> name -> what it is here
    path/        the directory that child processes get on `sys.path`; its `streaming` calls `install()`
    dataset      `StreamingDataset` with the default order of `install(order=)`
    array, spanner, world, distributed, util, constants, registry, ...   names that mixstream itself has no use for

What lives here: names, and small functions that programs call. What must not: anything that decides which sample comes
next. Rule: under the alias every guard of mixstream stays; no test of that package is a reason to lose one.
"""

from mixstream.compat.alias import DIRECTORY, install

__all__ = ["DIRECTORY", "install"]
