"""Objects of a store that speaks the protocol of S3, by signed requests.

Rules: those of `http_objects`. A region redirect is not followed: the bucket's region is found out, and the request is
signed for it. Any other redirect is followed without a signature. Pages of a listing have to go on from each other.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from mixstream.errors import StoreError, StoreFaultError
from mixstream.records import dataclass
from mixstream.storage.stores.client_errors import Operation, code_in, failed, is_of_other_region, refused_answer
from mixstream.storage.stores.http_objects import HttpObjects, opened, parse_xml, sized
from mixstream.storage.stores.transport import Answer, Sign

_PART = 8 << 20  # bytes of a part of an upload; S3 takes 10,000 of them, so 80 GB
_PARTS = 4  # of one object under way at once
_KEYS = 1000  # of one page
_EMPTY = 100  # pages without a new name, after which a listing goes nowhere
_REPLY = 1 << 20  # bytes of an answer that is no page


class OtherRegionError(Exception):
    """The bucket is, or may be, in another region.

    Args:
        refusal: what to raise if it is not.
    """

    def __init__(self, refusal: StoreError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


@dataclass(frozen=True, kw_only=True)
class S3Objects(HttpObjects):
    """The objects of a bucket.

    Args:
        acl: canned ACL that uploads get; "" for the bucket's own.
        headers: of every request, without credentials.
    """

    acl: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def put(self, operation: Operation, path: str, data: bytes | Path) -> None:
        """Write an object, large ones in parts: it is there when the last request succeeds."""
        with opened(data) as (body, size):
            if size <= _PART:
                whole = body if isinstance(body, bytes) else body.read(size + 1)
                with self.ask(operation, "PUT", self.url(path), {**sized(len(whole)), **self._acl()}, whole):
                    return
            upload = self._reply(operation, "POST", self.url(path, uploads=""), self._acl()).findtext("{*}UploadId")
            if not upload:
                raise StoreFaultError(f"{failed(operation)}: the answer names no upload")
            try:
                self._put_parts(operation, path, upload, _reader(body), size)
            except BaseException:
                gone = self.ask(operation, "DELETE", self.url(path, uploadId=upload))
                with suppress(StoreError, OtherRegionError), gone:
                    pass
                raise

    def _put_parts(
        self, operation: Operation, path: str, upload: str, read: Callable[[int, int], Any], size: int
    ) -> None:
        def send(number: int) -> str:
            body = read((number - 1) * _PART, min(_PART, size - (number - 1) * _PART))
            url = self.url(path, partNumber=str(number), uploadId=upload)
            with self.ask(operation, "PUT", url, sized(len(body)), body) as answer:
                return answer.header("ETag") or ""

        with ThreadPoolExecutor(_PARTS, thread_name_prefix="mixstream-upload") as threads:
            tags = list(threads.map(send, range(1, -(-size // _PART) + 1)))
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
            for number, tag in enumerate(tags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        done = self._reply(operation, "POST", self.url(path, uploadId=upload), sized(len(body)), body)
        if done.tag.endswith("Error"):  # after a status of success
            raise StoreFaultError(f"{failed(operation)}: {done.findtext('Code') or 'the store failed'}")

    def pages(self, operation: Operation, prefix: str, limit: int | None) -> Iterator[list[str]]:
        """Yield the paths of all objects of a directory, in pages."""
        query = {"list-type": "2"}
        if prefix:
            query["prefix"] = f"{prefix}/"
        if limit is not None and limit < _KEYS:
            query["max-keys"] = str(limit)
        seen, empty = set[int](), 0
        while True:
            with self.ask(operation, "GET", self.url("", **query)) as answer:
                tree = parse_xml(answer, "a page of a listing")
            page = [key.text or "" for key in tree.findall("{*}Contents/{*}Key")]
            yield [key for key in page if key and not key.endswith("/")]
            token = tree.findtext("{*}NextContinuationToken") or ""
            if (tree.findtext("{*}IsTruncated") or "").strip().lower() != "true" or not token:
                return
            empty = 0 if page else empty + 1
            if hash(token) in seen or empty > _EMPTY:
                raise StoreFaultError(f"{failed(operation)}: its pages lead to each other, so the listing never ends")
            seen.add(hash(token))
            query["continuation-token"] = token

    def region(self, operation: Operation) -> str | None:
        """Return the region of the bucket, as the service reports it; None if it does not."""
        answered: list[Answer] = []

        def stop(answer: Answer) -> None:
            answered.append(answer)
            raise OtherRegionError(answer.fault("redirected"))

        # Without its own hook, whose answer this is to find.
        asking = self.transport.ask(operation, "HEAD", self.url(""), headers=self.headers, sign=self.sign, moved=stop)
        with suppress(OtherRegionError), asking as answer:
            answered.append(answer)
        return answered[-1].header("x-amz-bucket-region")

    def moved(self, operation: Operation, answer: Answer) -> None:
        """Raise OtherRegionError for a redirect to another region."""
        region = answer.header("x-amz-bucket-region")
        if is_of_other_region(code := code_in(answer.words())) or region:
            raise OtherRegionError(refused_answer(answer.status, f"<Code>{code}</Code>", operation))

    def refused(self, operation: Operation, method: str, answer: Answer) -> Exception:
        """Return what to raise for an answer that is no success."""
        words = "" if method == "HEAD" else answer.words()
        error = refused_answer(answer.status, words, operation, has_body=method != "HEAD")
        mute = method == "HEAD" and answer.status == 400
        elsewhere = answer.status in (301, 307) or is_of_other_region(code_in(words)) or mute
        return OtherRegionError(error) if elsewhere else error

    def no_ranges(self, operation: Operation) -> StoreError:
        """Return what to raise where a range was asked for and the whole object comes: S3 has ranges."""
        return StoreFaultError(f"{failed(operation)}: it sent the whole object when a range was requested")

    def ask(self, operation: Operation, method: str, url: str, headers: Any = None, body: Any = None) -> Any:
        """Make a request, with the headers that all of them have."""
        return super().ask(operation, method, url, {**self.headers, **(headers or {})}, body)

    def _reply(
        self, operation: Operation, method: str, url: str, headers: dict[str, str], body: bytes = b""
    ) -> ET.Element:
        with self.ask(operation, method, url, {**sized(len(body)), **headers}, body) as answer:
            return parse_xml(answer, "an answer")

    def _acl(self) -> dict[str, str]:
        return {"x-amz-acl": self.acl} if self.acl else {}


def _reader(body: bytes | BinaryIO) -> Callable[[int, int], bytes]:
    """Return what reads (begin, size) of what is to be written, on any thread."""
    if isinstance(body, bytes):
        return lambda begin, size: body[begin : begin + size]
    number = body.fileno()

    def read(begin: int, size: int) -> bytes:
        if len(data := os.pread(number, size, begin)) < size:
            raise OSError(errno.EIO, "the file to be written was cut while it was written")
        return data

    return read


def signer(credentials: Callable[[], Any], region: str) -> Sign:
    """Return what signs requests to S3.

    Args:
        credentials: returns botocore's frozen credentials, as they are now.
        region: to sign for.
    """
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest

    def sign(method: str, url: str, headers: dict[str, str], body: Any) -> dict[str, str]:
        request = AWSRequest(method, url, headers=headers, data=body if body is not None else b"")
        S3SigV4Auth(credentials(), "s3", region).add_auth(request)
        return dict(request.headers.items())

    return sign
