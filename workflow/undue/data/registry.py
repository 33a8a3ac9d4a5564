"""The registry of files the pipeline can fetch, and fetching them: mirror folder, wheel, official URL.

Whatever the way a file comes, its size and sha256 decide. A wheel is used as an archive that happens to
ship the very file: it is downloaded, one member is read from it, and nothing is installed or run.
"""

from __future__ import annotations

import ast
import csv
import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import IO, Literal, TypeVar
from urllib.parse import urlsplit

import pypi_simple
import requests
import urllib3

from undue.errors import UserError
from undue.files import BLOCK, atomic, sha256

logger = logging.getLogger(__name__)

PAUSES = (1.0, 4.0)  # seconds before the second and the third try after a passing fault
TIMEOUT = (10.0, 60.0)  # seconds: to connect, between two pieces of the answer
REPORT_EVERY = 5.0  # seconds between two lines of progress
MALFORMED = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidURL,
)
PASSING_STATUS = frozenset({429, 500, 502, 503, 504})

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WHEEL = re.compile(r"[A-Za-z0-9_.]+-[A-Za-z0-9_.!+]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+\.whl")
_NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError)
_KINDS = {"mirror": "mirror", "wheel": "wheel", "url": "official URL"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """One file of the registry; the fields are the columns of `data/registry.tsv`, in order.

    Attributes:
        name: what the config calls it.
        version: version or year of the data.
        file: its name under the downloads folder.
        bytes: size in bytes.
        sha256: hex digest of the file, the same from every source.
        licence: licence, or what is known of it.
        mirror: where a mirror folder has it (relative path).
        wheel: exact name of a wheel that ships it, or "".
        member: its path inside that wheel, or "".
        url: official address of these very bytes, or "".
        note: what one should know about it.
    """

    name: str
    version: str
    file: str
    bytes: int
    sha256: str
    licence: str
    mirror: str
    wheel: str
    member: str
    url: str
    note: str


@dataclass(frozen=True)
class Source:
    """Where a file came from, or was looked for: `location` is a path, a wheel's name or an address."""

    kind: Literal["mirror", "wheel", "url"]
    location: str

    def __str__(self) -> str:
        return f"{_KINDS[self.kind]} {self.location}"


class _Unavailable(Exception):
    """A source didn't deliver; the message says why."""


COLUMNS = tuple(field.name for field in fields(Entry))


def read_registry(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """Read and check a registry: tab-separated, a header, one file a line.

    Returns:
        The entries by name, in the file's order.

    Raises:
        UserError: the file is missing, its columns are not `COLUMNS`, or a line is not a valid entry.
    """
    where = Path(path)
    try:
        with where.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except FileNotFoundError as error:
        raise UserError(
            "there is no such file",
            where=str(where),
            remedy="restore it from the repository: `git checkout -- data/registry.tsv`",
        ) from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UserError(
            f"the header is not {' '.join(COLUMNS)} (tab-separated)",
            where=str(where),
            remedy="restore the header line",
        )
    entries: dict[str, Entry] = {}
    files: set[str] = set()
    for number, values in enumerate(lines[1:], start=2):
        entry = _entry(values, where=f"{where}, line {number}")
        for value, taken in ((entry.name, entries), (entry.file, files)):
            if value in taken:
                raise UserError(
                    f"{value!r} is taken by an earlier line",
                    where=f"{where}, line {number}",
                    remedy="give every line its own name and its own file",
                )
        entries[entry.name] = entry
        files.add(entry.file)
    return entries


def mirror_folder(
    setting: str | os.PathLike[str] | None, environment: Mapping[str, str] = os.environ
) -> Path | None:
    """The mirror folder: the config's `data.mirror`, else the environment's `UNDUE_MIRROR`, else none."""
    chosen = setting or environment.get("UNDUE_MIRROR")
    return Path(chosen) if chosen else None


def fetch(
    entry: Entry,
    destination: Path,
    *,
    mirror: Path | None,
    pauses: Sequence[float] = PAUSES,
) -> Source:
    """Bring a file of the registry to `destination`: from the mirror, a wheel, or the official URL.

    The first source whose bytes have the entry's size and sha256 wins. Passing faults of a server (5xx,
    a broken connection) are tried again; a network that isn't there is not.

    Args:
        entry: what to fetch.
        destination: the file to write, replaced as a whole or left as it was.
        mirror: a folder that has the file at `entry.mirror`, or None.
        pauses: seconds to wait before each further try after a passing fault.

    Raises:
        UserError: no source had it (every source is named, with the reason), or the disk is full.
    """
    failures: list[tuple[Source, str]] = []
    with atomic(destination) as temporary:
        for source in _sources(entry, mirror):
            try:
                _obtain(source, entry, temporary, pauses)
                _verify(temporary, entry)
            except _Unavailable as failure:
                logger.warning("%s: %s: %s", entry.name, source, failure)
                failures.append((source, str(failure)))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise UserError(
                    f"no space left for {entry.file} ({entry.bytes / 1e6:.1f} MB); nothing was kept of it",
                    where=str(destination.parent),
                    remedy="free some space there and run again",
                ) from error
            else:
                logger.info("%s: %.1f MB from %s, sha256 as expected", entry.name, entry.bytes / 1e6, source)
                return source
        raise _nothing_worked(entry, mirror, failures)


def _entry(values: Sequence[str], where: str) -> Entry:
    """One line of the registry as an entry; UserError naming the column that isn't right."""

    def wrong(column: str, expected: str) -> UserError:
        return UserError(
            f"column {column!r}: {dict(zip(COLUMNS, values, strict=True))[column]!r} is not {expected}",
            where=where,
            remedy="correct the line; an empty value is allowed only for wheel, member, url and note",
        )

    if len(values) != len(COLUMNS):
        raise UserError(
            f"{len(values)} values for {len(COLUMNS)} columns",
            where=where,
            remedy="separate the values by single tabs, also where one is empty",
        )
    name, version, file, size, digest, licence, mirror, wheel, member, url, note = values
    if not _NAME.fullmatch(name):
        raise wrong("name", "lower-case letters, digits and underscores")
    if not version:
        raise wrong("version", "a version")
    if not _FILE.fullmatch(file):
        raise wrong("file", "a plain file name")
    if not (size.isascii() and size.isdecimal() and int(size) > 0):
        raise wrong("bytes", "a positive whole number")
    if not _DIGEST.fullmatch(digest):
        raise wrong("sha256", "64 lower-case hex digits")
    if not licence:
        raise wrong("licence", "a licence, or a word on what is known of it")
    if not _is_relative(mirror):
        raise wrong("mirror", "a relative path without '..'")
    if wheel and not _WHEEL.fullmatch(wheel):
        raise wrong("wheel", "the name of a wheel file")
    if bool(wheel) != bool(member) or (member and not _is_relative(member)):
        raise wrong("member", "a path inside the wheel (wheel and member go together)")
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
        raise wrong("url", "an http(s) address")
    return Entry(name, version, file, int(size), digest, licence, mirror, wheel, member, url, note)


def _is_relative(path: str) -> bool:
    """Whether `path` is a plain relative POSIX path that stays where it is joined."""
    return (
        bool(path)
        and "\\" not in path
        and str(PurePosixPath(path)) == path
        and path[0] not in "/."
        and (".." not in PurePosixPath(path).parts)
    )


def _sources(entry: Entry, mirror: Path | None) -> Iterator[Source]:
    if mirror is not None:
        yield Source("mirror", str(mirror / entry.mirror))
    if entry.wheel:
        yield Source("wheel", entry.wheel)
    if entry.url:
        yield Source("url", entry.url)


def _obtain(source: Source, entry: Entry, temporary: Path, pauses: Sequence[float]) -> None:
    """Write the source's bytes to `temporary`, unchecked. Raises _Unavailable."""
    if source.kind == "mirror":
        _copy(Path(source.location), temporary)
        return
    with _session() as session:
        if source.kind == "wheel":
            _take_from_wheel(entry, temporary, session, pauses)
        else:
            _retrying(lambda: _download(session, entry.url, temporary, entry.bytes, entry.name), pauses)


def _verify(path: Path, entry: Entry) -> None:
    size = path.stat().st_size
    if size != entry.bytes:
        raise _Unavailable(f"wrong size: {size} bytes, expected {entry.bytes}")
    digest = sha256(path)
    if digest != entry.sha256:
        raise _Unavailable(f"wrong sha256: {digest}, expected {entry.sha256}")


def _nothing_worked(entry: Entry, mirror: Path | None, failures: Sequence[tuple[Source, str]]) -> UserError:
    tried = [f"{source}: {reason}" for source, reason in failures]
    if mirror is None:
        tried.insert(0, "mirror: none is set")
    listed = "".join(f"\n  - {line}" for line in tried)
    folder = "that folder" if mirror is None else str(mirror)
    return UserError(
        f"no source has {entry.file} ({entry.bytes} bytes). Tried:{listed}",
        where=f"data/registry.tsv: {entry.name}",
        remedy="run again with a network; or set `data.mirror` in config.yaml (or the environment's "
        f"UNDUE_MIRROR) to a folder of copies and put the file there by hand, as {entry.mirror} in {folder}, "
        f"with sha256 {entry.sha256}",
    )


def _copy(path: Path, temporary: Path) -> None:
    try:
        shutil.copyfile(path, temporary)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _Unavailable(error.strerror or str(error)) from error


def _take_from_wheel(
    entry: Entry, temporary: Path, session: requests.Session, pauses: Sequence[float]
) -> None:
    """Download the wheel beside `temporary`, copy its one member there, drop the wheel."""
    endpoint = _pip_setting("index-url") or pypi_simple.PYPI_SIMPLE_ENDPOINT
    client = pypi_simple.PyPISimple(endpoint, session=session)
    project = entry.wheel.partition("-")[0]
    try:
        page = _retrying(lambda: client.get_project_page(project, timeout=TIMEOUT), pauses)
    except pypi_simple.NoSuchProjectError as error:
        raise _Unavailable(f"the package registry has no project {project}") from error
    except (ValueError, pypi_simple.UnsupportedRepoVersionError) as error:
        raise _Unavailable(f"the package registry's answer can't be read: {error}") from error
    package = next((package for package in page.packages if package.filename == entry.wheel), None)
    if package is None:
        raise _Unavailable(f"the package registry has no such file of project {project}")
    with tempfile.TemporaryDirectory(dir=temporary.parent, prefix=f"{temporary.stem}.") as folder:
        wheel = Path(folder) / entry.wheel
        _retrying(lambda: _download(session, package.url, wheel, package.size, entry.wheel), pauses)
        digest = package.digests.get("sha256")
        if digest is not None and sha256(wheel) != digest.lower():
            raise _Unavailable("the wheel doesn't have the sha256 that the package registry states")
        _copy_member(wheel, entry, temporary)


def _copy_member(wheel: Path, entry: Entry, temporary: Path) -> None:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(entry.member) as member,
            temporary.open("wb") as out,
        ):
            _write(iter(lambda: member.read(BLOCK), b""), out, entry.bytes)
    except KeyError as error:
        raise _Unavailable(f"the wheel has no member {entry.member}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise _Unavailable(f"the wheel can't be read: {error}") from error


def _session() -> requests.Session:
    session = requests.Session()
    session.headers["User-Agent"] = "undue-influence"
    # requests knows REQUESTS_CA_BUNDLE; where only pip was told of a company's certificates, use pip's.
    if certificates := _pip_setting("cert"):
        session.verify = certificates
    return session


def _pip_setting(key: str) -> str | None:
    """What pip is told for `key` by its environment variable or, failing that, its configuration files."""
    if value := os.environ.get(f"PIP_{key.replace('-', '_').upper()}"):
        return value
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    for line in listing.stdout.splitlines():
        name, _, value = line.partition("=")
        if name in (f"global.{key}", f"download.{key}"):
            return str(ast.literal_eval(value))
    return None


def _download(session: requests.Session, url: str, path: Path, size: int | None, label: str) -> None:
    """Stream `url` to `path`. Raises the errors of requests and urllib3, or _Unavailable."""
    # The bytes as they lie on the server: a server that labels a .gz file with a content encoding
    # would otherwise have it unpacked on the way.
    with session.get(url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as answer:
        answer.raise_for_status()
        length = answer.headers.get("Content-Length", "")
        total = size or (int(length) if length.isdecimal() else None)
        pieces = answer.raw.stream(BLOCK, decode_content=False)
        with path.open("wb") as out:
            _write(_reported(pieces, total, label), out, size)


def _write(pieces: Iterator[bytes], out: IO[bytes], limit: int | None) -> None:
    """Write the pieces, but no more than one past `limit` bytes: an endless answer must not fill the disk."""
    written = 0
    for piece in pieces:
        written += len(piece)
        if limit is not None and written > limit:
            raise _Unavailable(f"wrong size: more than the expected {limit} bytes")
        out.write(piece)


def _reported(pieces: Iterator[bytes], total: int | None, label: str) -> Iterator[bytes]:
    """Pass the pieces on, logging a line of progress at most every REPORT_EVERY seconds."""
    done, last = 0, time.monotonic()
    for piece in pieces:
        yield piece
        done += len(piece)
        if time.monotonic() - last >= REPORT_EVERY:
            last = time.monotonic()
            share = f" of {total / 1e6:.1f} MB ({100 * done / total:.0f} %)" if total else " MB"
            logger.info("%s: %.1f%s", label, done / 1e6, share)


def _retrying(action: Callable[[], _T], pauses: Sequence[float]) -> _T:
    """Do it, again after each pause if a passing fault stopped it. Raises _Unavailable with the reason."""
    for pause in (*pauses, None):
        try:
            return action()
        except _NETWORK_ERRORS as error:
            if pause is None or not _is_passing(error):
                raise _Unavailable(_explain(error)) from error
            logger.info("%s; trying again in %g s", _explain(error), pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


def _root(error: BaseException) -> BaseException:
    """The error that requests and urllib3 wrapped: MaxRetryError keeps it as `reason`."""
    inner = error.args[0] if error.args else None
    if isinstance(inner, urllib3.exceptions.MaxRetryError) and inner.reason is not None:
        return inner.reason
    return inner if isinstance(inner, urllib3.exceptions.HTTPError) else error


def _is_passing(error: Exception) -> bool:
    """Whether another try may succeed: the server answered badly or broke off, as opposed to no network."""
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in PASSING_STATUS
    if isinstance(error, requests.ReadTimeout | requests.exceptions.ChunkedEncodingError):
        return True
    return isinstance(_root(error), urllib3.exceptions.ProtocolError | urllib3.exceptions.ReadTimeoutError)


def _explain(error: Exception) -> str:
    """The reason in a few words, without addresses that may carry a password."""
    root = _root(error)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, MALFORMED):
        return f"the address is malformed ({type(error).__name__}); see pip's index-url, PIP_INDEX_URL"
    if isinstance(root, urllib3.exceptions.NameResolutionError):
        return "no network: the server's name can't be resolved"
    if isinstance(root, urllib3.exceptions.NewConnectionError):
        return "no network: the connection was refused or there is no route"
    if isinstance(error, requests.ConnectTimeout):
        return f"no network: no connection within {TIMEOUT[0]:g} s"
    if isinstance(root, urllib3.exceptions.ProtocolError):
        return "the connection broke off before the end"
    if isinstance(error, requests.Timeout) or isinstance(root, urllib3.exceptions.ReadTimeoutError):
        return f"the server was silent for {TIMEOUT[1]:g} s"
    return f"{type(root).__name__}: {root}"
