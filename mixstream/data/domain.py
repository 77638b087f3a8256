"""One domain: its shards, mapped into memory when they are needed, never read whole.

Rules: sizes are checked against the index before any byte is used; a shard is validated once, when it is mapped;
memory is O(shards), plus the page cache. `formats` decodes rows, `storage` finds files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.cached import cached_property
from mixstream.data.read_container import read_container
from mixstream.data.shard_specs import check_hashes, shard_spec
from mixstream.data.token_index import with_borders
from mixstream.errors import (
    SelectionError,
    ShardCorruptError,
    ShardNotFoundError,
    UnsafeEncodingError,
)
from mixstream.formats import (
    PART,
    Container,
    FileInfo,
    ShardEntry,
    TokenStore,
    file_names,
    hash_hex,
    kinds_of,
    samples_of,
)
from mixstream.formats import is_mds_encoding_safe as is_safe
from mixstream.lazy import later
from mixstream.plan.addressing import View, WholeShards
from mixstream.plan.state_record import PACKING
from mixstream.records import dataclass
from mixstream.storage import CacheLimit, DatasetFiles, ShardSpec, map_files

if TYPE_CHECKING:
    from mixstream.data.fingerprint import KeptFingerprint, fingerprint_of
    from mixstream.data.packed import Packed
    from mixstream.formats.cuts import Cuts
    from mixstream.formats.tokens.container import TokenFiles
    from mixstream.plan.selection import KeptRows
else:
    KeptFingerprint, fingerprint_of = later("mixstream.data.fingerprint", "KeptFingerprint", "fingerprint_of")
    (Packed,) = later("mixstream.data.packed", "Packed")
    (Cuts,) = later("mixstream.formats.cuts", "Cuts")
    (TokenFiles,) = later("mixstream.formats.tokens.container", "TokenFiles")
    (KeptRows,) = later("mixstream.plan.selection", "KeptRows")


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A named corpus: its shards, and how to read them.

    Args:
        name: what weights, metrics and errors call it.
        container: its shards, and the layout of samples in them.
        files: where they are.
        validate_hash: name of the hash that shards are checked against when they are first mapped; `ARRIVAL` for the
            quickest, when they arrive in the cache; None for none.
        kept: the rows that count; None for all of them.
        whole: for a bucket, the domain of which it is a part: it reads the same shards.
        eos_id: the token that ends a document, where the borders of documents are not stored; None if it is not given.
        bos_id: the token that begins one, likewise.
        kept_fingerprint: where the fingerprint of its shards is kept; None if it is not.
    """

    name: str
    container: Container
    files: DatasetFiles
    validate_hash: str | None = None
    kept: KeptRows | None = None
    whole: Self | None = None
    eos_id: int | None = None
    bos_id: int | None = None
    kept_fingerprint: KeptFingerprint | None = field(default=None, repr=False, compare=False)

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
        container, where, kept = read_container(files, validate_hash)
        container = with_borders(container, files)
        domain = cls(name=name, container=container, files=files, validate_hash=validate_hash, kept_fingerprint=kept)
        for columns in {shard.column_encodings: shard.columns for shard in kinds_of(domain.shards)}.values():
            for column, encoding in columns.items():
                if not allow_unsafe_types and not is_safe(encoding):
                    raise UnsafeEncodingError(
                        f"{where}: Column {column} contains an unsafe type: {encoding}. Decoding it runs code from the "
                        "shard; if you trust its origin, pass allow_unsafe_types=True"
                    )
        if validate_hash is not None:
            check_hashes(domain.shards, validate_hash, where=where)
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
        return WholeShards(
            samples_S=samples_of(self.shards), id=None if self.packed is None else f"{PACKING} {self.packed.id}"
        )

    @property
    def view_id(self) -> str | None:
        """The id of the selection or packing that says which rows there are; None if all stored rows are read."""
        return self.view.id if isinstance(self.view, KeptRows | WholeShards) else None

    @property
    def packed(self) -> Packed | None:
        """How rows are packed; None if they are read as they are stored."""
        return self.container if isinstance(self.container, Packed) else None

    @property
    def stored(self) -> Container:
        """What the shards store, without regard to a packing."""
        return self.container if self.packed is None else self.packed.inner

    @property
    def dropped(self) -> int:
        """Tokens at the ends of token files that are in no row or document."""
        return self.stored.dropped if isinstance(self.stored, TokenStore) else 0

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
        """Identity of the content, by index and listed borders: hex of 128 bits, the same wherever the files are."""
        if self.whole is not None:
            return self.whole.fingerprint
        if self.packed is not None:
            return self.packed.fingerprint(replace(self, container=self.packed.inner).fingerprint)
        listed = self.container.borders() if isinstance(self.container, TokenFiles) else ()
        return fingerprint_of(self.shards, listed, self.kept_fingerprint)

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
        """Check that shard `number`, mapped as `data`, is the one that rows were chosen from, or packed of.

        Raises:
            SelectionError: its header is another one, so its rows are other rows.
        """
        rows = self.kept or self.packed
        if rows is None or rows.header_S is None or (expected := rows.header_S[number]) is None:
            return
        header = np.ascontiguousarray(self.container.header(number, data))
        if (found := hash_hex("xxh3_128", header.data)) != expected:
            again = "make the selection again" if self.kept is not None else "pack it again with `mixstream pack`"
            place = f"{self.files.describe()}/{self.shards[number].raw.basename}"
            error = SelectionError(
                f"{place} was rewritten: the fingerprint of its header is {found}, and {rows.where} was made "
                f"for {expected}, so its rows are other rows: bring back the former shard, or {again}"
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
        computes = any(shard.part is not None and shard.part.begin is None for shard in kinds_of(self.shards))
        files = self.files.within(
            limit, file_names(self.shards, remote=self.files.store is not None), computes=computes
        )
        stored = with_borders(self.stored, files)
        container = stored if self.packed is None else replace(self.packed, inner=stored)
        return replace(self, files=files, container=container)

    def cuts(self, number: int) -> tuple[Cuts, int] | None:
        """Return the borders of documents in the file of shard `number`, and the token of it at which the shard begins.

        None where none are stored beside the tokens, as in MDS. The first call for a file checks its borders.

        Raises:
            IndexCorruptError, StoreError: they are inconsistent, or cannot be read.
        """
        return self.stored.cuts(number, self.map) if isinstance(self.stored, TokenStore) else None

    def keeping(self, kept: KeptRows) -> Self:
        """Return the domain with these rows alone."""
        return replace(self, kept=kept)

    def packing(self, packed: Packed) -> Self:
        """Return the domain, read as packed rows of its shards."""
        return replace(self, container=packed)

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
            if self.packed is not None:
                return self.packed.decode_row(number, row, data, where=where)
            return self.container.decode(number, self.record(number, row, data).tobytes(), where=where)
        except Exception as error:
            error.add_note(f"domain {self.name!r}, shard {info.raw.basename} in {self.files.describe()}, sample {row}")
            raise

    def specs(self, number: int) -> list[ShardSpec]:
        """Return the names, sizes and checks by which storage knows the files of shard `number`: one, or two."""
        return [self._spec(number, raw, packed) for raw, packed in self.shards[number].files]

    def _spec(self, number: int, raw: FileInfo, packed: FileInfo | None) -> ShardSpec:
        place = self.files.describe()
        return shard_spec(self.stored, number, raw, packed, place=place, validate_hash=self.validate_hash)

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
