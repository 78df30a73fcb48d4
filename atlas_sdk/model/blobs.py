"""Store the content of a version as a compressed keyframe, or as a delta from the previous version.

A blob's data is one format byte and a payload. Keyframes and deltas are zstd frames without the 4-byte magic, content
size and checksum (SHA-256 checks more); a delta is compressed with its base as the prefix. A content that does not
shrink is stored as it is. On real histories of memory files, blobs take 1.17 times the bytes of `zstd -22` over a whole
history at once (`make bench`).
"""

import hashlib
import sys
from typing import Any, Self

from attrs import field, frozen

from atlas_sdk.errors import ContentMissing, IntegrityFailure

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["Blob", "assemble", "encode", "sha256_of"]

_MAGIC = b"\x28\xb5\x2f\xfd"
_KEYFRAME = b"\x01"
_DELTA = b"\x02"
_RAW = b"\x00"

#: Larger contents are compressed at level 3: a fifth of level 9's time for 15 % more bytes.
_LARGE_BYTES = 64 * 1024
#: The most deltas in a chain. On real histories 128 takes 1.26 times the bytes of `zstd -22` over the whole history,
#: 256 takes 1.17, no bound 1.14. A read applies each delta in 20-30 µs.
_DEPTH_LIMIT = 256
#: Store a keyframe when the delta is larger than this part of the keyframe: the saving is not worth a longer chain.
_DELTA_WORTH = 0.6
#: zstd refuses shorter raw dictionaries.
_DICTIONARY_BYTES = 8


def sha256_of(content: bytes) -> bytes:
    """Return the 32 bytes that address this content."""
    return hashlib.sha256(content).digest()


@frozen(kw_only=True)
class Blob:
    """One row of memory_blobs."""

    sha256: bytes = field(repr=lambda value: value.hex()[:12])
    size: int
    depth: int = 0
    base_sha256: bytes | None = field(default=None, repr=False)
    #: None when only hash and size are known, because the file was over the size limit.
    data: bytes | None = field(default=None, repr=False)

    @classmethod
    def absent(cls, sha256: bytes, size: int) -> Self:
        """Return the blob of a file over the size limit."""
        return cls(sha256=sha256, size=size)

    @classmethod
    def raw(cls, content: bytes) -> Self:
        """Return the blob of a content without compression, as the keyframe of a chain."""
        return cls(sha256=sha256_of(content), size=len(content), data=_RAW + content)


def _options(level: int, window_bytes: int) -> dict[int, int]:
    parameter = zstd.CompressionParameter
    # The window must cover the whole base. Every decoder accepts a window_log of 10 to 27.
    window_log = min(27, max(10, (window_bytes - 1).bit_length()))
    return {
        parameter.compression_level: level,
        parameter.window_log: window_log,
        parameter.content_size_flag: 0,
        parameter.checksum_flag: 0,
        parameter.dict_id_flag: 0,
    }


def _compress(content: bytes, base: bytes | None) -> bytes:
    level = 3 if len(content) > _LARGE_BYTES else 9
    prefix: Any = None if base is None else zstd.ZstdDict(base, is_raw=True).as_prefix
    options = _options(level, len(content) + len(base or b"") + 1)
    frame = zstd.ZstdCompressor(options=options, zstd_dict=prefix).compress(content, zstd.ZstdCompressor.FLUSH_FRAME)
    return frame.removeprefix(_MAGIC)


def _decompress(payload: bytes, base: bytes | None) -> bytes:
    prefix: Any = None if base is None else zstd.ZstdDict(base, is_raw=True).as_prefix
    return zstd.ZstdDecompressor(zstd_dict=prefix).decompress(_MAGIC + payload)


def encode(content: bytes, *, sha256: bytes, base: Blob | None = None, base_content: bytes | None = None) -> Blob:
    """Encode a content as a delta from `base` if the delta is small enough, else as a keyframe.

    `base_content` is the content of `base`. A chain is at most 256 deltas long, which bounds the cost of a read.
    """
    usable = base_content is not None and len(base_content) >= _DICTIONARY_BYTES
    if base is not None and base_content is not None and usable and base.depth < _DEPTH_LIMIT:
        delta = _compress(content, base_content)
        # Take a small delta without compressing a keyframe for comparison.
        if len(delta) <= len(content) // 10 or len(delta) <= _DELTA_WORTH * len(_compress(content, None)):
            size, depth = len(content), base.depth + 1
            return Blob(sha256=sha256, size=size, depth=depth, base_sha256=base.sha256, data=_DELTA + delta)
    keyframe = _compress(content, None)
    data = _KEYFRAME + keyframe if len(keyframe) < len(content) else _RAW + content
    return Blob(sha256=sha256, size=len(content), data=data)


def assemble(chain: list[Blob], *, path: str) -> bytes:
    """Rebuild the content of the first blob of a chain. The chain leads, base by base, to a keyframe.

    Raises ContentMissing when only hash and size were kept, IntegrityFailure when the bytes do not match the SHA-256.
    """
    wanted = chain[0]
    if wanted.data is None:
        raise ContentMissing(
            f"{path}: this version is {wanted.size:,} bytes, over the size limit, so only its hash was kept",
            path=path,
            size=wanted.size,
        )
    content: bytes | None = None
    try:
        for blob in reversed(chain):
            if blob.data is None or (content is None) != (blob.base_sha256 is None):
                raise IntegrityFailure(_broken(path, wanted.sha256), sha256=wanted.sha256.hex())
            content = _decode(blob.data, content)
    except (zstd.ZstdError, ValueError) as exc:
        raise IntegrityFailure(_broken(path, wanted.sha256), sha256=wanted.sha256.hex()) from exc
    if content is None or sha256_of(content) != wanted.sha256:
        raise IntegrityFailure(_broken(path, wanted.sha256), sha256=wanted.sha256.hex())
    return content


def _decode(data: bytes, base: bytes | None) -> bytes:
    form, payload = data[:1], data[1:]
    if form == _RAW:
        return payload
    if form == _KEYFRAME:
        return _decompress(payload, None)
    if form == _DELTA:
        return _decompress(payload, base)
    message = f"unknown blob format {form!r}"
    raise ValueError(message)


def _broken(path: str, sha256: bytes) -> str:
    return (
        f"{path}: stored bytes of version {sha256.hex()[:12]} do not match their SHA-256; "
        "`memory.verify` shows what else is affected; restore the database from a backup"
    )
