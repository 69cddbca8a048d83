"""Write files so that a final name only ever holds a complete file.

Everything is written into a hidden staging folder inside the destination (same file system), flushed to disk, and
renamed. A process killed at any moment leaves at most the staging folder, which the next run clears away.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tofu_export.errors import OptionError, OutputError

__all__ = [
    "Staging",
    "check_writable",
    "check_writable_file",
    "is_text",
    "require_file",
    "sha256_of",
    "staging",
    "write_text",
]

_PREFIX = ".tofu-export-"
_DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})


class Staging:
    """Folder for unfinished files.

    Args:
        folder: the hidden folder, which exists.
        destination: folder for finished files.
    """

    def __init__(self, folder: Path, destination: Path) -> None:
        self.folder = folder
        self.destination = destination

    def path(self, name: str) -> Path:
        """Return the path at which to write the file that will be called `name`."""
        return self.folder / name

    def publish(self, *names: str) -> list[Path]:
        """Move finished files to the destination under their names, in the order given.

        Older files of these names are removed first, the last one before the others: files of two runs never coexist.
        Of two processes that publish into one folder the second waits.

        Raises:
            OutputError: the file system refuses.
        """
        with _output_errors(self.destination), _alone_in(self.destination):
            for name in names:
                flush_to_disk(self.path(name))
            for name in reversed(names):
                (self.destination / name).unlink(missing_ok=True)
            published = [self.path(name).replace(self.destination / name) for name in names]
            flush_to_disk(self.destination)
        return published


@contextlib.contextmanager
def staging(destination: Path) -> Iterator[Staging]:
    """Open a staging folder in `destination`, which is created if needed; remove what is left of it at the end.

    A destination that had to be created and is still empty at the end is removed too.

    Raises:
        OutputError: the destination is not a folder or cannot be written.
    """
    check_writable(destination)
    created = not destination.exists()
    try:
        with _output_errors(destination):
            destination.mkdir(parents=True, exist_ok=True)
            _clear_abandoned(destination)
            folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=destination))
        try:
            with _output_errors(destination, _DISK_TROUBLE):
                yield Staging(folder, destination)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        if created:
            with contextlib.suppress(OSError):
                destination.rmdir()


def check_writable(destination: Path) -> None:
    """Check that `staging` could open a folder in a destination, without making one.

    Raises:
        OutputError: the destination, or its nearest existing parent, is not a folder or cannot be written.
    """
    with _output_errors(destination):
        there = next(place for place in (destination.absolute(), *destination.absolute().parents) if place.exists())
        if not there.is_dir():
            what = "it" if there == destination.absolute() else there
            raise NotADirectoryError(errno.ENOTDIR, f"{what} is a file, expected a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def check_writable_file(path: Path) -> None:
    """Check that `write_text` could write a file, without making one.

    Raises:
        OutputError: the path is a folder, or its own folder cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder, expected the name of a file to write")
    if not path.exists() or path.is_file():  # else a device or a pipe
        check_writable(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write one file, complete or not at all; a device or a pipe is written to and stays what it is.

    Raises:
        OutputError: the path cannot be written, or is a folder.
    """
    check_writable_file(path)
    if path.exists() and not path.is_file():
        with _output_errors(path), path.open("w", encoding="utf-8") as device:
            device.write(text)
        return
    with staging(path.parent) as stage:
        stage.path(path.name).write_text(text, encoding="utf-8")
        stage.publish(path.name)


@contextlib.contextmanager
def _output_errors(destination: Path, numbers: frozenset[int] | None = None) -> Iterator[None]:
    """Turn errors of the file system, all or those of these numbers, into an error that names the folder."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if numbers is not None and error.errno not in numbers:
            raise
        reason = error.strerror or error
        raise OutputError(
            f"cannot write to {destination}: {reason}. Choose another place for what is written"
        ) from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this context for the folder; without locks there is no wait."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def require_file(path: Path, expected: str) -> None:
    """Refuse a path that does not exist, or is not a file.

    Args:
        path: the path to check.
        expected: what it should be, with its article.

    Raises:
        OptionError: there is no such file.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
        raise OptionError(f"{path} {what}, expected {expected}")


def is_text(path: Path) -> bool:
    """True for a path that is UTF-8, which native libraries expect; a file system takes any bytes."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _clear_abandoned(destination: Path) -> None:
    """Remove staging folders of ended processes; those of running processes stay."""
    for folder in destination.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not _is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
