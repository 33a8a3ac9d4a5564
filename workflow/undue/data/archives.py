"""Reading folders, zips and tars of files through one interface, without ever extracting to disk.

An archive is somebody else's file: names that leave the tree, links that do, devices and members of
absurd size are refused, and a broken archive is the user's error rather than a traceback.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from undue.errors import UserError
from undue.files import BLOCK

LARGEST_MEMBER = 256 * 2**20  # bytes; a hundred times the largest photograph
_LONGEST_LINK = 4096  # bytes of a link's target, as in Linux

_JUNK_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_DRIVE = re.compile(r"[A-Za-z]:")
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
)
_Opener = Callable[[], AbstractContextManager[IO[bytes]]]


class Tree(ABC):
    """Regular files by relative POSIX path, in a folder or an archive. Keeps no file open between calls.

    Attributes:
        label: the path to name in messages.
        names: sorted; without what macOS and Windows leave behind.
    """

    label: str
    names: tuple[str, ...]

    def read(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of the given files (default: all), each once, in the cheapest order.

        One file is held in memory at a time.

        Raises:
            KeyError: a name isn't in the tree.
            UserError: the archive is damaged, a file can't be read or is larger than LARGEST_MEMBER.
        """
        wanted = set(self.names if names is None else names)
        if unknown := wanted.difference(self.names):
            raise KeyError(f"not in {self.label}: {min(unknown)}")
        with _broken_is_users_error(self.label):
            yield from self._read(wanted)

    @abstractmethod
    def _read(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]: ...

    @abstractmethod
    def stream(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """One file as an open, seekable stream."""


def open_tree(path: str | os.PathLike[str]) -> Tree:
    """List a folder, a zip or a tar (plain, gz, bz2 or xz; told by content, not by name).

    Links inside an archive are read as the file that they point to. A folder's links are followed
    wherever they lead: they are on the user's own disk.

    Raises:
        UserError: no such path; not an archive, or a damaged one; a member with an absolute path or `..`,
            a link to something that isn't a file of the archive, a device, a name twice.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            "there is no such file or folder",
            where=str(path),
            remedy="correct the path in the config, or put the data there",
        )
    if path.is_dir():
        return _folder(path)
    return _archive(lambda: path.open("rb"), str(path))


def open_nested(tree: Tree, name: str) -> Tree:
    """List an archive that is itself a file of `tree`, reading through both. Errors as `open_tree`."""
    return _archive(lambda: tree.stream(name), f"{tree.label}: {name}")


@dataclass(frozen=True)
class _Folder(Tree):
    label: str
    names: tuple[str, ...]
    root: Path

    def _read(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        for name in sorted(wanted):
            path = self.root / name
            try:
                _refuse_large(path.stat().st_size, name, self.label)
                content = path.read_bytes()
            except OSError as error:
                raise UserError(
                    f"the file can't be read: {error.strerror or error}",
                    where=str(path),
                    remedy="make it readable, or start again: the folder may have changed since it was listed",
                ) from error
            yield name, content

    def stream(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return (self.root / name).open("rb")


@dataclass(frozen=True)
class _Zip(Tree):
    label: str
    names: tuple[str, ...]
    open_source: _Opener
    targets: Mapping[str, str]  # name -> name as the archive spells that of the file behind it

    def _read(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        with self.open_source() as source, zipfile.ZipFile(source) as archive:
            infos = {name: archive.getinfo(self.targets[name]) for name in wanted}
            for name in sorted(wanted, key=lambda name: (infos[name].header_offset, name)):
                _refuse_large(infos[name].file_size, name, self.label)
                yield name, archive.read(infos[name])

    @contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        with (
            self.open_source() as source,
            zipfile.ZipFile(source) as archive,
            archive.open(self.targets[name]) as file,
        ):
            yield file


@dataclass(frozen=True)
class _Tar(Tree):
    label: str
    names: tuple[str, ...]
    open_source: _Opener
    targets: Mapping[str, str]  # name -> cleaned name of the file behind it

    def _read(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        readers: dict[str, list[str]] = {}
        for name in sorted(wanted):
            readers.setdefault(self.targets[name], []).append(name)
        with self.open_source() as source, tarfile.open(fileobj=source) as archive:
            for member in _members(archive):
                names = readers.pop(_clean(member.name, self.label), []) if member.isreg() else []
                if names:
                    content = _content(archive, member, self.label)
                    yield from ((name, content) for name in names)
                if not readers:
                    return
            if readers:
                raise EOFError(f"{min(readers)} has gone since the archive was listed")

    @contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        with self.open_source() as source, tarfile.open(fileobj=source) as archive:
            for member in _members(archive):
                if member.isreg() and _clean(member.name, self.label) == self.targets[name]:
                    file = archive.extractfile(member)
                    assert file is not None  # a regular file has content
                    with file:
                        yield file
                    return


def _folder(root: Path) -> Tree:
    names = []
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up would be walked for ever
            folders.clear()
            continue
        seen.add(real)
        for file in files:
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if _is_junk(name):
                continue
            if not path.is_file():
                raise _unsafe(
                    str(root), name, "is neither a file nor a folder (a device, or a link to nothing)"
                )
            names.append(_clean(name, str(root)))
    return _Folder(label=str(root), names=tuple(sorted(names)), root=root)


def _raise(error: OSError) -> None:
    raise UserError(
        f"can't be listed: {error.strerror}",
        where=str(error.filename),
        remedy="make the folder readable",
    ) from error


def _archive(open_source: _Opener, label: str) -> Tree:
    with _broken_is_users_error(label):
        with open_source() as source:
            is_zip = source.read(2) == b"PK"
        return _list_zip(open_source, label) if is_zip else _list_tar(open_source, label)


def _list_zip(open_source: _Opener, label: str) -> Tree:
    files: dict[str, str] = {}  # cleaned name -> the archive's spelling
    links: dict[str, str] = {}
    with open_source() as source, zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            # Some Windows tools write backslashes.
            name = _clean(info.filename.replace("\\", "/"), label)
            if _is_junk(name):
                continue
            _refuse_twice(name, files, label)
            _refuse_twice(name, links, label)
            if info.flag_bits & 1:
                raise _unsafe(label, name, "is encrypted")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind == stat.S_IFLNK:
                if info.file_size > _LONGEST_LINK:
                    raise _unsafe(label, name, "is a link of absurd length")
                links[name] = posixpath.join(posixpath.dirname(name), os.fsdecode(archive.read(info)))
            elif kind in (0, stat.S_IFREG):
                files[name] = info.filename
            else:
                raise _unsafe(label, name, "is a device, a pipe or a socket")
    targets = {name: files[target] for name, target in _resolved(files, links, label).items()}
    return _Zip(label=label, names=tuple(sorted(targets)), open_source=open_source, targets=targets)


def _list_tar(open_source: _Opener, label: str) -> Tree:
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    with open_source() as source, tarfile.open(fileobj=source) as archive:
        for member in _members(archive):
            if member.isdir():
                continue
            name = _clean(member.name, label)
            if _is_junk(name):
                continue
            _refuse_twice(name, files, label)
            _refuse_twice(name, links, label)
            if member.issym():
                links[name] = posixpath.join(posixpath.dirname(name), member.linkname)
            elif member.islnk():  # a hard link's target is counted from the archive's root
                links[name] = member.linkname
            elif member.isreg():
                files[name] = name
            else:
                raise _unsafe(label, name, "is a device or a pipe")
        _refuse_truncated(archive)
    targets = _resolved(files, links, label)
    return _Tar(label=label, names=tuple(sorted(targets)), open_source=open_source, targets=targets)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The archive's members; unlike its own iterator, this one doesn't remember them all."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        yield member


def _refuse_truncated(archive: tarfile.TarFile) -> None:
    """Raise EOFError unless the archive has its end mark and its compressed stream ends as it should.

    tarfile takes a file that stops before a member's header, or within it, for a complete one. Having read
    the first block of the end mark it stands a block behind `offset`; at a mere end of file before that.
    """
    assert archive.fileobj is not None  # it is open
    if archive.fileobj.tell() < archive.offset + tarfile.BLOCKSIZE:
        raise EOFError("the archive has no end mark")
    while archive.fileobj.read(BLOCK):  # to the end: decompressors compare checksums there
        pass


def _resolved(files: Mapping[str, str], links: Mapping[str, str], label: str) -> dict[str, str]:
    """Every name, links included, with the regular file that it stands for."""
    targets = {name: name for name in files}
    for name in links:
        target, passed = name, {name}
        while target in links:
            target = _clean(posixpath.normpath(links[target]), label, link=name)
            if target in passed:
                raise _unsafe(label, name, "is a link that leads to itself")
            passed.add(target)
        if target not in files:
            raise _unsafe(label, name, f"is a link to {target!r}, which isn't a file of the archive")
        targets[name] = target
    return targets


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, label: str) -> bytes:
    _refuse_large(member.size, member.name, label)
    file = archive.extractfile(member)
    assert file is not None  # a regular file has content
    return file.read()


def _clean(name: str, label: str, *, link: str | None = None) -> str:
    """A member's name (or, for `link`, its target) without `./`; UserError if it leaves the tree."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or _DRIVE.match(name) or ".." in parts or not parts:
        shown = name if link is None else link
        raise _unsafe(
            label, shown, "leads out of the archive" if link is None else f"is a link out of it ({name})"
        )
    cleaned = "/".join(parts)
    try:
        cleaned.encode()
    except UnicodeEncodeError as error:
        raise _unsafe(label, ascii(name), "has a name that isn't UTF-8") from error
    return cleaned


def _is_junk(name: str) -> bool:
    *folders, file = name.split("/")
    return "__MACOSX" in folders or file.startswith("._") or file in _JUNK_FILES


def _refuse_twice(name: str, taken: Container[str], label: str) -> None:
    if name in taken:
        raise _unsafe(label, name, "is in the archive twice")


def _refuse_large(size: int, name: str, label: str) -> None:
    if size > LARGEST_MEMBER:
        raise _unsafe(label, name, f"has {size / 2**20:.0f} MiB; the limit is {LARGEST_MEMBER / 2**20:.0f}")


def _unsafe(label: str, name: str, why: str) -> UserError:
    return UserError(
        f"the member {name!r} {why}",
        where=label,
        remedy="make the archive anew from plain files under one folder, or use the folder itself",
    )


@contextmanager
def _broken_is_users_error(label: str) -> Iterator[None]:
    """Turn what the standard library raises on a damaged archive into one UserError."""
    try:
        yield
    except _BROKEN as error:
        raise UserError(
            f"can't be read as a zip or tar(.gz, .bz2, .xz) archive: {error}",
            where=label,
            remedy="it is damaged, cut short or something else: fetch or make it again",
        ) from error
