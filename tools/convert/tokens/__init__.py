"""Text → token ids. Kinds of tokenizers are in shared/tokenizers/, one a file; `--train-bpe` is in ../train_bpe.py.

tokenizer.py       a description that each worker loads     long_texts.py      a long document, in parts
chat_tokens.py     which tokens of a chat count             from_tokenizer.py  `--from-tokenizer`: tokens → text
options.py         as they are typed
"""
