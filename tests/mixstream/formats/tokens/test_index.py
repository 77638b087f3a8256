"""The index of token files: opening several streams parses several at once, before any was parsed."""

import os
import subprocess
import sys

import pytest

PARSE = """
import os, sys, threading
from mixstream.formats.tokens.index import TokenIndex, dump_token_index, parse_token_index

data = dump_token_index(TokenIndex(kind="x", seq_len=1, overlap=0, shard_bytes=5, files=()))

def parse():
    together.wait()
    parse_token_index(data, where="")

ends = []
for _ in range(60):
    if not (child := os.fork()):
        sys.setswitchinterval(1e-6)
        together = threading.Barrier(6)
        threads = [threading.Thread(target=parse) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    ends.append(os.waitpid(child, 0)[1])
print(sum(end != 0 for end in ends))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process can parse for the first time only once")
def test_threads_may_be_the_first_to_parse_one():
    """msgspec learns a type at its first use, and several threads that use it then can crash the process."""
    done = subprocess.run([sys.executable, "-c", PARSE], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["0"]
