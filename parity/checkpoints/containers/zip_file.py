"""The members of a zip archive, checked before anything is read from them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from ..accounting import CheckpointError
from .stored import short

# What `zipfile` raises on a file that somebody has tampered with.
BROKEN = (BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, OverflowError, RuntimeError)
_LOCAL_HEADER = 30
_ENCRYPTED = 1


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        archive: The archive.
        info: Its entry.
        offset: Where its bytes start in the archive.
    """

    archive: Path
    info: ZipInfo
    offset: int

    @property
    def name(self) -> str:
        """Name in the archive."""
        return self.info.filename

    @property
    def size(self) -> int:
        """Bytes, uncompressed."""
        return self.info.file_size

    @property
    def is_stored(self) -> bool:
        """Whether its bytes are in the archive as they are."""
        return self.info.compress_type == ZIP_STORED

    def start(self, count: int) -> bytes:
        """Its first bytes; no more are inflated.

        Raises:
            CheckpointError: They can't be inflated.
        """
        try:
            with ZipFile(self.archive) as archive, archive.open(self.info) as opened:
                return opened.read(count)
        except BROKEN as error:
            raise CheckpointError(f"{self.archive}: {short(self.name)}: {error}") from None


def members(file: Path) -> dict[str, Member]:
    """Everything in an archive by name.

    Raises:
        CheckpointError: Not a zip archive, or a member that is there twice, encrypted, compressed in an unusual way or
            not within the file.
    """
    found: dict[str, Member] = {}
    try:
        with file.open("rb") as opened, ZipFile(opened) as archive:
            end = file.stat().st_size
            for info in archive.infolist():
                name = info.filename
                if name in found:
                    raise CheckpointError(f"{file}: {short(name)} is there twice")
                if info.flag_bits & _ENCRYPTED or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                    raise CheckpointError(f"{file}: {short(name)}: encrypted, or neither stored nor deflated")
                if info.compress_type == ZIP_STORED and info.compress_size != info.file_size:
                    got = f"got {info.file_size} bytes from {info.compress_size} that aren't compressed"
                    raise CheckpointError(f"{file}: {short(name)}: {got}")
                found[name] = Member(file, info, _data_offset(opened, info, end))
    except CheckpointError:
        raise
    except BROKEN as error:
        raise CheckpointError(f"{file}: not a readable zip archive: {error}") from None
    return found


def _data_offset(file: BinaryIO, info: ZipInfo, end: int) -> int:
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise BadZipFile(f"no header of {short(info.filename)} where the directory says")
    name, extra = struct.unpack("<HH", header[26:])
    offset = info.header_offset + _LOCAL_HEADER + name + extra
    if offset + info.compress_size > end:
        raise BadZipFile(f"{short(info.filename)} ends at byte {offset + info.compress_size} of {end}")
    return offset
