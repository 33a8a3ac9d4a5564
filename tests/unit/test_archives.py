"""Trees: the same content from every container, and refusal of what is unsafe or broken."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import layouts
import pytest

from undue.data import archives
from undue.data.archives import open_nested, open_tree
from undue.errors import UserError

MEMBERS = {"b/2.txt": b"two", "a.txt": b"", "b/10.txt": b"x" * 1024, "./c/d.txt": b"deep"}
CONTAINERS = ["t.zip", "t.tar", "t.tar.gz", "t.tar.bz2", "t.tar.xz", "folder"]


def tar_of(path: Path, *infos: tarfile.TarInfo, content: bytes = b"abc") -> Path:
    with tarfile.open(path, "w") as archive:
        for info in infos:
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("container", CONTAINERS)
def test_same_files_from_every_container(tmp_path: Path, container: str) -> None:
    tree = open_tree(layouts.pack(tmp_path / container, MEMBERS))
    assert tree.names == ("a.txt", "b/10.txt", "b/2.txt", "c/d.txt")
    assert dict(tree.read()) == {os.path.normpath(name): content for name, content in MEMBERS.items()}
    assert list(tree.read(["c/d.txt", "b/2.txt", "c/d.txt"])) in (
        [("b/2.txt", b"two"), ("c/d.txt", b"deep")],
        [("c/d.txt", b"deep"), ("b/2.txt", b"two")],
    )
    with tree.stream("b/2.txt") as file:
        assert file.read() == b"two"
    with pytest.raises(KeyError, match=r"nothing\.txt"):
        list(tree.read(["nothing.txt"]))


@pytest.mark.parametrize("container", CONTAINERS[:-1])
def test_archives_are_read_in_the_order_they_are_stored(tmp_path: Path, container: str) -> None:
    tree = open_tree(layouts.pack(tmp_path / container, MEMBERS))
    assert [name for name, _ in tree.read()] == [os.path.normpath(name) for name in MEMBERS]


@pytest.mark.parametrize("container", CONTAINERS[:-1])
def test_an_empty_archive_has_no_files(tmp_path: Path, container: str) -> None:
    tree = open_tree(layouts.pack(tmp_path / container, {}))
    assert (tree.names, list(tree.read())) == ((), [])


def test_content_not_suffix_tells_the_format(tmp_path: Path) -> None:
    packed = layouts.pack(tmp_path / "t.tar.xz", MEMBERS)
    assert len(open_tree(packed.rename(tmp_path / "download")).names) == 4


@pytest.mark.parametrize("container", CONTAINERS)
def test_left_overs_of_other_systems_are_ignored(tmp_path: Path, container: str) -> None:
    junk = dict.fromkeys(("__MACOSX/a.txt", "b/._2.txt", ".DS_Store", "b/Thumbs.db", "desktop.ini"), b"?")
    assert open_tree(layouts.pack(tmp_path / container, MEMBERS | junk)).names == (
        "a.txt",
        "b/10.txt",
        "b/2.txt",
        "c/d.txt",
    )


@pytest.mark.parametrize("container", ["t.zip", "t.tar", "t.tar.gz"])
@pytest.mark.parametrize("name", ["../out.txt", "/etc/passwd", "a/../../out.txt", "C:/out.txt"])
def test_names_that_leave_the_tree_are_refused(tmp_path: Path, container: str, name: str) -> None:
    with pytest.raises(UserError, match="leads out of the archive") as error:
        open_tree(layouts.pack(tmp_path / container, {"ok.txt": b"", name: b"!"}))
    assert name in str(error.value)
    assert str(tmp_path / container) in str(error.value)


def test_backslashes_of_windows_zips_are_separators(tmp_path: Path) -> None:
    tree = open_tree(layouts.pack(tmp_path / "t.zip", {"a\\b.txt": b"1"}))
    assert dict(tree.read()) == {"a/b.txt": b"1"}
    with pytest.raises(UserError, match="leads out"):
        open_tree(layouts.pack(tmp_path / "u.zip", {"..\\b.txt": b"1"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd"])
def test_tar_links_out_are_refused(tmp_path: Path, kind: bytes, target: str) -> None:
    path = tar_of(tmp_path / "t.tar", member("a/link", kind, target))
    with pytest.raises(UserError, match=r"'a/link' is a link out of it .*etc/passwd"):
        open_tree(path)


def test_tar_links_within_are_followed(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "t.tar",
        member("a/first", tarfile.SYMTYPE, "../b/second"),  # before its target
        member("b/second", tarfile.SYMTYPE, "../c"),
        member("c"),
        member("d/hard", tarfile.LNKTYPE, "c"),
    )
    tree = open_tree(path)
    assert dict(tree.read()) == dict.fromkeys(["a/first", "b/second", "c", "d/hard"], b"abc")
    assert list(tree.read(["d/hard"])) == [("d/hard", b"abc")]
    with tree.stream("a/first") as file:
        assert file.read() == b"abc"


@pytest.mark.parametrize(
    ("infos", "why"),
    [
        ([member("l", tarfile.SYMTYPE, "nowhere")], "isn't a file of the archive"),
        ([member("l", tarfile.SYMTYPE, "m"), member("m", tarfile.SYMTYPE, "l")], "leads to itself"),
        ([member("dev", tarfile.CHRTYPE)], "device"),
        ([member("dev", tarfile.FIFOTYPE)], "pipe"),
        ([member("a"), member("./a")], "twice"),
        ([member("a"), member("b"), member("a", tarfile.SYMTYPE, "b")], "twice"),
        ([member("a", tarfile.LNKTYPE, "b"), member("b"), member("a")], "twice"),
    ],
)
def test_odd_tar_members_are_refused(tmp_path: Path, infos: list[tarfile.TarInfo], why: str) -> None:
    with pytest.raises(UserError, match=why):
        open_tree(tar_of(tmp_path / "t.tar", *infos))


def zip_of(path: Path, name: str, content: bytes, mode: int) -> Path:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("real.txt", b"abc")
        archive.writestr(info, content)
    return path


def test_zip_links(tmp_path: Path) -> None:
    link = stat.S_IFLNK | 0o777
    tree = open_tree(zip_of(tmp_path / "t.zip", "a/link", b"../real.txt", link))
    assert dict(tree.read()) == {"a/link": b"abc", "real.txt": b"abc"}
    with pytest.raises(UserError, match="link out of it"):
        open_tree(zip_of(tmp_path / "u.zip", "a/link", b"../../etc/passwd", link))
    with pytest.raises(UserError, match="absurd length"):
        open_tree(zip_of(tmp_path / "v.zip", "a/link", b"x" * 5000, link))
    with pytest.raises(UserError, match="device"):
        open_tree(zip_of(tmp_path / "w.zip", "dev", b"", stat.S_IFCHR | 0o666))


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = layouts.pack(tmp_path / "t.zip", {"a.txt": b"secret"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"'a\.txt' is encrypted"):
        open_tree(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    with pytest.raises(UserError, match="twice"):
        open_tree(tmp_path / "t.zip")


@pytest.mark.parametrize("container", CONTAINERS)
def test_large_members_are_refused_unread(
    tmp_path: Path, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 1000)
    tree = open_tree(layouts.pack(tmp_path / container, MEMBERS))
    assert dict(tree.read(["b/2.txt"]))
    with pytest.raises(UserError, match=r"'b/10\.txt' has .* MiB; the limit is"):
        dict(tree.read())


@pytest.mark.parametrize("container", CONTAINERS[:-1])
def test_every_truncation_is_noticed(tmp_path: Path, container: str) -> None:
    whole = layouts.pack(tmp_path / container, {f"{i}.txt": os.urandom(700) for i in range(3)}).read_bytes()
    # A plain tar may lose zeros after the first block of its end mark: headers and contents are 1,536 each.
    needed = 3 * 1536 + 512 if container == "t.tar" else len(whole)
    for length in [0, 1, 100, 512, 1024, 1536, 2048, needed // 2, needed - 512, needed - 1]:
        if length < needed:
            (tmp_path / "cut").write_bytes(whole[:length])
            with pytest.raises(UserError, match="can't be read as a zip or tar"):
                open_tree(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(whole[:needed])
    assert len(open_tree(tmp_path / "cut").names) == 3


@pytest.mark.parametrize("container", ["t.zip", "t.tar.gz", "t.tar.xz", "t.tar.bz2"])
def test_damage_is_noticed(tmp_path: Path, container: str) -> None:
    path = layouts.pack(tmp_path / container, {"a.txt": os.urandom(5000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        dict(open_tree(path).read())


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(UserError, match="can't be read"):
        open_tree(tmp_path / "t.tar")
    with pytest.raises(UserError, match="no such file or folder"):
        open_tree(tmp_path / "absent")


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="UTF-8"):
        open_tree(tar_of(tmp_path / "t.tar", member("caf\udce9.txt")))


def test_a_file_that_goes_while_it_is_read(tmp_path: Path) -> None:
    path = layouts.pack(tmp_path / "t.tar", MEMBERS)
    tree = open_tree(path)
    layouts.pack(path, {"a.txt": b""})
    with pytest.raises(UserError, match="has gone"):
        dict(tree.read())


def test_folder_links(tmp_path: Path) -> None:
    layouts.pack(tmp_path / "elsewhere", {"x.txt": b"1"})
    root = layouts.pack(tmp_path / "root", {"a.txt": b"2"})
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    assert dict(open_tree(root).read()) == {"a.txt": b"2", "linked/x.txt": b"1"}
    (root / "dangling").symlink_to(root / "nothing")
    with pytest.raises(UserError, match="'dangling' is neither a file nor a folder"):
        open_tree(root)


def test_folder_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="'pipe' is neither"):
        open_tree(tmp_path)


def test_a_file_of_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    tree = open_tree(tmp_path)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="can't be read: No such file") as caught:
        dict(tree.read())
    assert caught.value.where == str(tmp_path / "a.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_unreadable_folder(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    with pytest.raises(UserError, match="can't be listed"):
        open_tree(tmp_path)


@pytest.mark.parametrize("inner", ["t.zip", "t.tar", "t.tar.gz", "t.tar.xz"])
@pytest.mark.parametrize("outer", ["o.zip", "o.tar", "o.tar.gz", "o"])
def test_nested(tmp_path: Path, inner: str, outer: str) -> None:
    content = layouts.pack(tmp_path / inner, MEMBERS).read_bytes()
    around = open_tree(layouts.pack(tmp_path / outer, {"data/inner": content, "data/other": b""}))
    tree = open_nested(around, "data/inner")
    assert dict(tree.read())["c/d.txt"] == b"deep"
    assert tree.label == f"{tmp_path / outer}: data/inner"
    with pytest.raises(UserError, match="data/other"):
        open_nested(around, "data/other")


def test_nothing_is_extracted(tmp_path: Path) -> None:
    dict(open_tree(layouts.pack(tmp_path / "t.tar.gz", MEMBERS)).read())
    assert [path.name for path in tmp_path.iterdir()] == ["t.tar.gz"]
