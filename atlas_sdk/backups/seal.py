"""The seal at the end of a dump: its SHA-256 and its row counts. pg_dump's own table of contents has no checksum.

The seal is two lines of text after the output of pg_dump. No pg_restore reads them. The first line has the number of
rows of every table as JSON. The second line has the hash of everything before the hash.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import BinaryIO, Final

from attrs import frozen

from atlas_sdk.errors import BackupFailed

__all__ = ["Seal"]

_MARK: Final = "ATLASENGINE SEAL 1 "
_LAST: Final = re.compile(rb"ATLASENGINE SEAL 1 (?P<size>\d{20}) (?P<sha256>[0-9a-f]{64})\n")
#: The length of the hash and of the end of its line. The hash does not cover these bytes.
_HASH_BYTES: Final = 65
_LAST_BYTES: Final = len(_MARK) + 20 + 1 + _HASH_BYTES
#: pg_dump ends its last block of rows, compressed or not, with a length of 0: a sign and four bytes.
_END: Final = bytes(5)
_PIECE_BYTES: Final = 1024 * 1024


@frozen(kw_only=True)
class Seal:
    """The row counts of a dump when it was written. The end of the file also has the SHA-256."""

    #: The number of rows of every table.
    rows: dict[str, int]

    def ending(self, file: Path) -> bytes:
        """Return the bytes to append to a dump."""
        content = json.dumps({"rows": self.rows})
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            digest = hashlib.file_digest(opened, "sha256")
        head = f"\n{content}\n{_MARK}{size:020} ".encode()
        digest.update(head)
        return head + f"{digest.hexdigest()}\n".encode()

    @classmethod
    def read(cls, file: Path, opened: BinaryIO) -> "Seal | None":
        """Return the seal of an unchanged dump; None for a dump that pg_dump alone wrote, without a seal.

        Raises BackupFailed for every other file. The seal is no signature: a person who changes a dump can seal it
        again.
        """
        total = opened.seek(0, os.SEEK_END)
        opened.seek(max(total - _LAST_BYTES, 0))
        tail = opened.read()
        last = _LAST.fullmatch(tail)
        if last is None:
            if tail.endswith(_END):
                return None
            raise BackupFailed(
                f"{file} is cut short or damaged: its end is neither pg_dump's nor a seal of AtlasEngine; load another "
                "copy of it, or an older dump; nothing was written"
            )
        if _hashed(opened, total - _HASH_BYTES) != last["sha256"].decode():
            raise BackupFailed(
                f"{file} is damaged: it does not have the SHA-256 that it was sealed with; load another copy of it, or "
                "an older dump; nothing was written"
            )
        opened.seek(int(last["size"]))
        content = json.loads(opened.read(total - _LAST_BYTES - int(last["size"])))
        return cls(rows=content["rows"])


def _hashed(opened: BinaryIO, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes of a file."""
    digest = hashlib.sha256()
    opened.seek(0)
    while piece := opened.read(min(size, _PIECE_BYTES)):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()
