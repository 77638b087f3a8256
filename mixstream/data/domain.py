"""One domain: its shards, mapped into memory when they are needed, never read whole.

Rules: sizes are checked against the index before any byte is used; a shard is validated once, when it is mapped;
memory is O(shards), plus the page cache. `formats` decodes rows, `storage` finds files.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.errors import (
    ConfigError,
    IndexCorruptError,
    SelectionError,
    ShardCorruptError,
    ShardNotFoundError,
    UnsafeEncodingError,
)
from mixstream.formats import PART, Container, FileInfo, ShardEntry, decompress, hash_hex, is_hash, open_container
from mixstream.formats import is_mds_encoding_safe as is_safe
from mixstream.plan.addressing import View, WholeShards
from mixstream.plan.selection import KeptRows
from mixstream.storage import CacheLimit, CompressedSpec, DatasetFiles, ShardSpec, map_files


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A named corpus: its shards, and how to read them.

    Args:
        name: what weights, metrics and errors call it.
        container: its shards, and the layout of samples in them.
        files: where they are.
        validate_hash: name of the hash that shards are checked against when they are first mapped; None for none.
        kept: the rows that count; None for all of them.
        whole: for a bucket, the domain of which it is a part: it reads the same shards.
    """

    name: str
    container: Container
    files: DatasetFiles
    validate_hash: str | None = None
    kept: KeptRows | None = None
    whole: Self | None = None

    @classmethod
    def open(
        cls, *, name: str, files: DatasetFiles, validate_hash: str | None = None, allow_unsafe_types: bool = False
    ) -> Self:
        """Read and check the index of a dataset.

        Raises:
            IndexNotFoundError: there is none.
            IndexCorruptError: its content is not valid.
            UnsafeEncodingError: a column is pickled, and `allow_unsafe_types` is False.
        """
        data, where = files.read_index()
        try:
            container = open_container(data, where=where, validate_hash=validate_hash)
        except IndexCorruptError:  # it may have been damaged in transfer
            data, where = files.read_index()
            container = open_container(data, where=where, validate_hash=validate_hash)
        domain = cls(name=name, container=container, files=files, validate_hash=validate_hash)
        for columns in {shard.column_encodings: shard.columns for shard in domain.shards}.values():
            for column, encoding in columns.items():
                if not allow_unsafe_types and not is_safe(encoding):
                    raise UnsafeEncodingError(
                        f"{where}: Column {column} contains an unsafe type: {encoding}. Decoding it runs code from the "
                        "shard; if you trust its origin, pass allow_unsafe_types=True"
                    )
        if validate_hash is not None:
            for shard in domain.shards:
                if validate_hash not in shard.hashes:
                    raise ConfigError(
                        f"{where}: validate_hash={validate_hash!r}, but shard {shard.raw.basename} carries the hashes "
                        f"{list(shard.hashes)}; choose one of these, or None"
                    )
        return domain

    @property
    def shards(self) -> Sequence[ShardEntry]:
        """Its shards, in order."""
        return self.container.shards

    @property
    def tokenizer(self) -> Mapping[str, Any] | None:
        """What `mixstream convert` says of the tokenizer in the index; None if another program wrote the index."""
        about = self.container.extra.get("mixstream")
        tokenizer = about.get("tokenizer") if isinstance(about, Mapping) else None
        return tokenizer if isinstance(tokenizer, Mapping) else None

    @cached_property
    def view(self) -> View:
        """Which samples of the shards count, and which stored row each of them is."""
        if self.kept is not None:
            return self.kept
        rows_S = np.fromiter((shard.samples for shard in self.shards), dtype=np.int64, count=len(self.shards))
        return WholeShards(samples_S=rows_S)

    @property
    def samples_S(self) -> NDArray[np.int64]:
        """Samples per shard that count, int64 [S]."""
        return self.view.samples_S

    @cached_property
    def samples(self) -> int:
        """Samples that count, over all shards."""
        return int(self.samples_S.sum())

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the content, computed from the index: hex of 128 bits, the same wherever the files are."""
        if self.whole is not None:
            return self.whole.fingerprint
        digest = blake2b(digest_size=16)
        for shard in self.shards:
            raw, hashes = shard.raw, sorted(shard.raw.hashes.items())
            facts = (raw.basename, shard.samples, raw.bytes, shard.column_names, shard.column_encodings, hashes)
            digest.update(repr(facts).encode())
        return digest.hexdigest()

    def map(self, number: int) -> NDArray[np.uint8]:
        """Return shard `number`, mapped and validated: uint8 [bytes], read-only, mapped as long as the array lives.

        It is fetched to local disk if it is not there. If its bytes differ from what the index says, it is fetched once
        more before an error is raised.

        Raises:
            ShardNotFoundError: there is no file of the shard.
            ShardCorruptError: it differs from what the index says.
            StoreError: its store cannot be read.
            CacheFullError: there is no room for it.
        """
        try:
            return self._map(number)
        except Exception as error:
            if isinstance(error, ShardCorruptError | ShardNotFoundError):
                for spec in self.specs(number):
                    self.files.expect_repair(spec)
            error.add_note(self._of(number))
            raise

    def check_header(self, number: int, data: NDArray[np.uint8]) -> None:
        """Check that shard `number`, mapped as `data`, is the one that the kept rows were chosen from.

        Raises:
            SelectionError: its header is another one, so its rows are other rows.
        """
        if self.kept is None or self.kept.header_S is None or (expected := self.kept.header_S[number]) is None:
            return
        header = np.ascontiguousarray(self.container.header(number, data))
        if (found := hash_hex("xxh3_128", header.data)) != expected:
            error = SelectionError(
                f"{self._place(self.shards[number].raw.basename)} was rewritten: the fingerprint of its header is "
                f"{found}, and {self.kept.where} was made for {expected}, so its rows are other rows: bring back the "
                "former shard, or make the selection again"
            )
            error.add_note(self._of(number))
            raise error

    def check_mapped(self, number: int) -> None:
        """Check that shard `number`, if it is mapped where the user has it, was not written to since.

        Raises:
            StoreChangedError: it was, and no hash shows that it is right.
        """
        if self.files.is_in_place:
            for raw, packed in self.shards[number].files:
                self.files.check_mapped(raw.basename, partial(self._spec, number, raw, packed))

    def present(self, number: int) -> bool:
        """Return whether `map` finds shard `number` on local disk."""
        return all(map(self.files.present, self.specs(number)))

    def fetch(self, number: int, need: float) -> bool:
        """Fetch shard `number` to local disk, before `map` needs it.

        Returns False if another thread or process is fetching it, or if there is no room for it without evicting shards
        that are needed sooner.

        Args:
            number: the shard.
            need: steps until the plan needs it.
        """
        for spec in self.specs(number):
            if (file := self.files.open(spec, need=need, wait=False)) is None:
                return False
            file.close()
        return True

    def renew(self, number: int) -> bool:
        """Fetch shard `number` again, even if it is on local disk; return False if nothing can fill it."""
        with ExitStack() as stack:
            return self._renewed(number, stack) is not None

    def within(self, limit: CacheLimit) -> Self:
        """Return the domain, which is no bucket, with its cache directory under `limit`."""
        files = (file for shard in self.shards for file in shard.files)
        names = {raw.basename: packed.basename if packed else None for raw, packed in files}
        return replace(self, files=self.files.within(limit, names))

    def keeping(self, kept: KeptRows) -> Self:
        """Return the domain with these rows alone."""
        return replace(self, kept=kept)

    def bucket(self, label: str, kept: KeptRows) -> Self:
        """Return a part of the domain, which is a domain of its own and reads the same shards."""
        return replace(self, name=f"{self.name}/{label}", kept=kept, whole=self)

    def record(self, number: int, row: int, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the stored bytes of one sample of shard `number`, whose bytes are `data`."""
        info = self.shards[number]
        if not 0 <= row < info.samples:
            raise IndexError(f"row {row} of shard {info.raw.basename}, which has {info.samples} samples")
        begin, end = self.container.rows(number).span(data, row)
        return data[begin:end]

    def decode(self, number: int, row: int, data: NDArray[np.uint8]) -> dict[str, Any]:
        """Return one sample of shard `number`, decoded: column -> value, columns sorted by name."""
        info = self.shards[number]
        where = f"{info.raw.basename}, sample {row}"
        try:
            return self.container.decode(number, self.record(number, row, data).tobytes(), where=where)
        except Exception as error:
            error.add_note(f"domain {self.name!r}, shard {info.raw.basename} in {self.files.describe()}, sample {row}")
            raise

    def specs(self, number: int) -> list[ShardSpec]:
        """Return the names, sizes and checks by which storage knows the files of shard `number`: one, or two."""
        return [self._spec(number, raw, packed) for raw, packed in self.shards[number].files]

    def _spec(self, number: int, raw: FileInfo, packed: FileInfo | None) -> ShardSpec:
        compressed = None
        if packed is not None:
            unpack = partial(
                decompress,
                self.shards[number].compression,
                raw_bytes=raw.bytes,
                where=self._place(packed.basename),
            )
            compressed = CompressedSpec(
                name=packed.basename,
                size=packed.bytes,
                check=self._check(packed),
                unpack=unpack,
                proof=_proof(packed),
            )
        return ShardSpec(
            name=raw.basename, size=raw.bytes, check=self._check(raw), compressed=compressed, proof=_proof(raw)
        )

    def _map(self, number: int) -> NDArray[np.uint8]:
        with ExitStack() as stack:
            specs, files = self.specs(number), []
            for spec in specs:
                file = self.files.open(spec)
                assert file is not None, "open() returns None only with wait=False"
                files.append(stack.enter_context(file))
            try:
                data = self._validated(files, number)
                for spec, file in zip(specs, files):
                    self.files.check_in_place(spec, file)
                return data
            except ShardCorruptError:
                if (files := self._renewed(number, stack)) is None:
                    raise
            return self._validated(files, number)

    def _renewed(self, number: int, stack: ExitStack) -> list[BinaryIO] | None:
        """Return the files of a shard, filled again since they are bad; None if nothing can fill one of them."""
        files = []
        for spec in self.specs(number):
            if (file := self.files.renewed(spec)) is None:
                return None
            files.append(stack.enter_context(file))
        return files

    def _validated(self, files: Sequence[BinaryIO], number: int) -> NDArray[np.uint8]:
        data = map_files(files, part=PART)
        self.container.check(number, data, where=str(files[-1].name))
        return data

    def _of(self, number: int) -> str:
        return f"domain {self.name!r}, shard {number} of {len(self.shards)}"

    def _place(self, basename: str) -> str:
        return f"{self.files.describe()}/{basename}"

    def _check(self, file: FileInfo) -> Callable[[Any], None] | None:
        """Return a function that compares bytes of `file` with its hash in the index; None without `validate_hash`."""
        if self.validate_hash is None:
            return None
        return partial(_compare, self.validate_hash, file.hashes, self._place(file.basename))


def _proof(file: FileInfo) -> Callable[[Any], bool] | None:
    """Return a function that tells whether bytes have a hash that the index lists for `file`; None if it lists none."""
    known = [(algorithm, value) for algorithm, value in sorted(file.hashes.items()) if is_hash(algorithm)]
    if not known:
        return None
    algorithm, expected = known[-1]  # "xxh…" is the fastest
    return lambda data: hash_hex(algorithm, data) == expected


def _compare(algorithm: str, hashes: Mapping[str, str], where: str, data: Any) -> None:
    if (expected := hashes.get(algorithm)) is None:
        raise IndexCorruptError(
            f"{where}: the index names the hash {algorithm} but has no value for it; write the dataset again, or pass "
            "validate_hash=None"
        )
    if (found := hash_hex(algorithm, data)) != expected:
        raise ShardCorruptError(
            f"Checksum failure: {where}: {algorithm} is {found}, the index says {expected}; the file is damaged or "
            "belongs to another index: copy it again from its origin"
        )
