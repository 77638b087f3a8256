"""`mixstream inspect --html`: datasets as one page for people, in a file of its own.

page.py      the page, from its sections          shown.py     what it shows
domains.py   counts of each domain                documents.py lengths, copies, what was left out
rows.py      rows of tokens, borders visible      details.py   texts, tokenizer, options, sources
charts.py    plots as SVG                         style.py     the style, and the policy of the page
elements.py  HTML that text cannot break out of   numbers.py   numbers as people read them
"""

from .page import render
from .rows import Row, TokenReader, describe_columns
from .shown import IN_SAMPLES, Page, Shown

__all__ = ["IN_SAMPLES", "Page", "Row", "Shown", "TokenReader", "describe_columns", "render"]
