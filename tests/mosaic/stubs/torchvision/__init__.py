"""Stands in for torchvision, which has no build for the CPU torch that the tests use.

`import streaming` imports its vision datasets, and they name one base class and one function of torchvision. Nothing
that `tests/mosaic` compares touches them; using them fails.
"""
