from __future__ import annotations

from pathlib import Path

import pytest
from harness import write_tokens

import mixstream as ms
from mixstream.errors import ConfigError
from mixstream.loader.stream import prepared

NO_DEFAULTS: dict[str, object] = {}


def names(*streams: ms.Stream) -> list[str | None]:
    return [stream.name for stream in prepared(streams, NO_DEFAULTS)]


def test_a_stream_says_what_it_was_given():
    stream = ms.Stream(remote="/r", local="/l", split="train", repeat=2, max_epochs=3, name="web")
    assert (stream.remote, stream.local, stream.split, stream.repeat) == ("/r", "/l", "train", 2)
    assert (stream.proportion, stream.choose, stream.validate_hash, stream.keep_zip) == (None, None, None, None)
    assert repr(stream) == "Stream(remote='/r', local='/l', split='train', repeat=2, name='web', max_epochs=3)"
    assert ms.Stream().split == ""
    assert ms.Stream(remote="r").remote == str(Path("r").absolute())


@pytest.mark.parametrize(
    ("kw", "said"),
    [
        ({"proportion": 0.5, "repeat": 1}, r"At most one of .*\['proportion', 'repeat'\]"),
        ({"repeat": 1, "choose": 1}, r"\['repeat', 'choose'\]"),
        ({"proportion": -0.1}, "`proportion` must be at least 0, got -0.1"),
        ({"repeat": -1}, "`repeat` must be at least 0"),
        ({"choose": -1}, "`choose` must be at least 0"),
        ({"choose": 2.5}, "`choose` is a whole number of samples, got 2.5; use `repeat`"),
        ({"repeat": float("nan")}, "`repeat` must be at least 0, got nan"),
        ({"proportion": float("inf")}, "`proportion` must be at least 0, got inf"),
        ({"max_epochs": float("inf")}, "`max_epochs` must be above 0, got inf.*None for no limit"),
        ({"max_epochs": 0}, "`max_epochs` must be above 0, got 0; leave the stream out"),
        ({"download_retry": -1}, "`download_retry` must be at least 0"),
        ({"download_timeout": 0}, "`download_timeout` must be above 0 seconds"),
        ({"download_timeout": float("inf")}, "`download_timeout` .* got inf; give at most 2147483648"),
        ({"validate_hash": False}, "`validate_hash` is a text, got False; write 'arrival', .* or None"),
    ],
)
def test_what_cannot_be_is_refused_by_name(kw, said):
    with pytest.raises(ConfigError, match=said):
        ms.Stream(remote="x", **kw)


def test_weights_of_zero_are_legal():
    assert ms.Stream(remote="x", proportion=0, choose=None).proportion == 0


def test_arguments_are_by_keyword():
    with pytest.raises(TypeError):
        ms.Stream("x")  # type: ignore[misc]


def test_a_name_is_the_last_part_of_the_path_that_is_not_the_split():
    assert names(ms.Stream(remote="/data/web/"), ms.Stream(remote="/data/code", split="train")) == ["web", "code"]
    assert names(ms.Stream(local="/data/web")) == ["web"]
    assert names(ms.Stream(remote="/data/web", name="mine")) == ["mine"]


def test_names_that_several_would_share_are_their_paths():
    assert names(ms.Stream(remote="/a/web"), ms.Stream(remote="/b/web"), ms.Stream(remote="/b/code")) == [
        "/a/web",
        "/b/web",
        "code",
    ]
    split = (ms.Stream(remote="/a/web", split="train"), ms.Stream(remote="/a/web", split="val"))
    assert names(*split) == ["/a/web/train", "/a/web/val"]


def test_two_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"share the names \['x'\]; give each stream a `name` of its own"):
        names(ms.Stream(remote="/a", name="x"), ms.Stream(remote="/b", name="x"))
    with pytest.raises(ConfigError, match="share the names"):
        names(ms.Stream(remote="/a"), ms.Stream(remote="/a"))


def test_a_place_is_needed():
    with pytest.raises(ConfigError, match="`remote` and/or `local` path must be provided"):
        ms.StreamingDataset(streams=[ms.Stream()])


def test_settings_of_the_dataset_hold_where_a_stream_says_nothing(tmp_path):
    for name in ("a", "b"):
        write_tokens(tmp_path / name, range(3), hashes=["sha1", "xxh64"])
    given = [
        ms.Stream(remote=str(tmp_path / "a"), download_retry=7),
        ms.Stream(remote=str(tmp_path / "b"), validate_hash="xxh64", keep_zip=True),
    ]
    dataset = ms.StreamingDataset(streams=given, validate_hash="sha1", download_retry=3, download_timeout=9)
    a, b = dataset.streams
    assert (a.download_retry, a.download_timeout, a.validate_hash, a.keep_zip) == (7, 9, "sha1", False)
    assert (b.download_retry, b.download_timeout, b.validate_hash, b.keep_zip) == (3, 9, "xxh64", True)
    assert given[1].download_retry is None
    assert ms.StreamingDataset(streams=given).size == 6  # the same streams serve any number of datasets


@pytest.mark.parametrize("kw", [{"download_retry": -1}, {"download_timeout": 0}])
def test_settings_of_the_dataset_are_checked_as_the_streams_own(tmp_path, kw):
    write_tokens(tmp_path, range(3))
    with pytest.raises(ConfigError, match=rf"`{next(iter(kw))}` must be"):
        ms.StreamingDataset(remote=str(tmp_path), **kw)


def test_credentials_of_a_url_are_not_shown():
    stream = ms.Stream(remote="https://me:S3cret@host/data/web?sig=T0ken", split="train")
    assert repr(stream) == "Stream(remote='https://host/data/web', split='train')"
    assert names(stream) == ["web"]
    with pytest.raises(ConfigError) as caught:
        names(stream, "not a stream")  # type: ignore[arg-type]
    assert "S3cret" not in str(caught.value)
    assert "T0ken" not in str(caught.value)
