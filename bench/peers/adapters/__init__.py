"""How each contender stores the corpus and delivers it; one file a contender, each with the same three names.

`SETTINGS` is the grid that is swept, the documented default first. `convert(corpus, out)` writes the corpus with the
peer's own writer, in the format that its documentation recommends for tokens. `batches(corpus, data, batch_size=,
dtype=, **settings)` yields, without end, contiguous tensors [batch_size, SEQ] of `dtype` in CPU memory that belong to
the receiver: shuffled rows of all domains, mixed by `corpus.weights` as the peer mixes. `PACKAGES` names what is
versioned. Nothing of the peer is imported at the top of a file: the driver reads `SETTINGS` in another environment.
"""
