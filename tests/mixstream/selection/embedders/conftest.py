"""Models that the tests of embedders share."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from models import write_decoder, write_encoder  # pyright: ignore[reportMissingImports] - the path is set above


@pytest.fixture(scope="session")
def encoder_directory(tmp_path_factory):
    pytest.importorskip("transformers")
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def decoder_directory(tmp_path_factory):
    pytest.importorskip("transformers")
    return write_decoder(tmp_path_factory.mktemp("decoder"))
