"""What a database's URL means, and where no database can live."""

from __future__ import annotations

import pytest

from llmapi_kit.errors import ConfigError
from llmapi_kit.store import database_url
from llmapi_kit.store.database_url import check_folder, network_file_system, parse_database_url

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:40 / {folder}/nfs rw,relatime shared:2 master:3 - nfs4 server:/export rw,vers=4.2
25 24 8:1 / {folder}/nfs/disk rw - ext4 /dev/sdb1 rw
26 22 0:41 / {folder}/with\040space rw - cifs //server/share rw
27 22 0:42 / {folder}/drive rw - fuse.drive drive rw
28 22 0:43 / {folder}/bucket rw - fuse.gcsfuse bucket rw
29 22 0:44 / {folder}/plain rw - fuse plain rw
30 22 0:45 / {folder}/ntfs rw - fuseblk /dev/sdc1 rw
31 22 0:46 / {folder}/merged rw - fuse.mergerfs a:b rw
32 22 0:47 / {folder}/replaced rw - nfs server:/a rw
33 22 0:48 / {folder}/replaced rw - xfs /dev/sdd1 rw
34 22 0:49 / {folder}/lustre rw - lustre a@tcp:/fs rw
35 22 0:50 / {folder}/vm rw - 9p share rw
"""


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """A folder, some of whose folders are said to be on other file systems."""
    folder = tmp_path / "mounts"
    for name in ("nfs/disk/deep", "with space", "drive", "bucket", "local"):
        (folder / name).mkdir(parents=True)
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTS.strip().replace("{folder}", str(folder)) + "\n")
    monkeypatch.setattr(database_url, "MOUNTINFO", mountinfo)
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nfs", "nfs4"),
        ("nfs/disk", None),
        ("nfs/disk/deep", None),
        ("with space", "cifs"),
        ("drive", "fuse.drive"),
        ("bucket", "fuse.gcsfuse"),
        ("plain", "fuse"),
        ("ntfs", None),
        ("merged", None),
        ("replaced", None),
        ("lustre", "lustre"),
        ("vm", "9p"),
        ("local", None),
    ],
)
def test_the_longest_and_last_mount_tells_what_a_folder_is_on(mounted, name, kind):
    assert network_file_system(mounted / name / "x.sqlite") == kind


def test_a_link_is_followed(mounted):
    (mounted / "local" / "link").symlink_to(mounted / "bucket")
    (mounted / "local" / "x.sqlite").symlink_to(mounted / "nfs" / "x.sqlite")
    assert network_file_system(mounted / "local" / "link" / "y.sqlite") == "fuse.gcsfuse"
    assert network_file_system(mounted / "local" / "x.sqlite") == "nfs4"


def test_a_network_file_system_is_refused_with_a_way_out(mounted):
    with pytest.raises(ConfigError, match=r"nfs/x\.sqlite.*\(nfs4\).*LLMAPI_KIT_DATABASE_URL.*postgresql://"):
        check_folder(mounted / "nfs" / "x.sqlite")
    check_folder(mounted / "local" / "x.sqlite")


def test_this_machines_own_mounts_can_be_read(tmp_path):
    assert database_url._mounts()[database_url.Path("/")]
    check_folder(tmp_path / "x.sqlite")


def test_where_there_is_no_mountinfo_psutil_is_asked(tmp_path, monkeypatch):
    class Partition:
        mountpoint, fstype = str(tmp_path), "smbfs"

    monkeypatch.setattr(database_url, "MOUNTINFO", tmp_path / "missing")
    monkeypatch.setattr(
        database_url.psutil, "disk_partitions", lambda **options: [Partition] if options == {"all": True} else []
    )
    assert network_file_system(tmp_path / "x.sqlite") == "smbfs"


@pytest.mark.parametrize(
    ("url", "kind", "file"),
    [
        ("sqlite:////data/x.db", "sqlite", "/data/x.db"),
        ("sqlite+pysqlite:////data/with space.db", "sqlite", "/data/with space.db"),
        ("sqlite://", "sqlite", None),
        ("sqlite:///", "sqlite", None),
        ("sqlite:///:memory:", "sqlite", None),
        ("postgresql://u:p@host/db", "postgres", None),
        ("postgres://u:p@host:5433/db?sslmode=require", "postgres", None),
        ("postgresql+psycopg://host/db", "postgres", None),
    ],
)
def test_urls_that_are_known(url, kind, file):
    parsed = parse_database_url(url)
    assert (parsed.kind, None if parsed.file is None else str(parsed.file)) == (kind, file)
    assert parsed.is_memory is (kind == "sqlite" and file is None)


def test_a_relative_path_begins_at_the_working_folder_and_a_tilde_at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert parse_database_url("sqlite:///a/x.db").file == tmp_path / "a" / "x.db"
    assert parse_database_url("sqlite:///~/x.db").file == tmp_path / "me" / "x.db"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("store.db", "sqlite:///"),
        ("mysql://u:secret@host/db", "mysql://"),
        ("postgresql+asyncpg://u:secret@host/db", r"postgresql\+asyncpg://"),
        ("sqlite+aiosqlite:///x.db", r"sqlite\+aiosqlite://"),
        ("sqlite://x.db", "three slashes"),
        ("sqlite:///x.db?mode=ro", "only a path|more than a path"),
        ("postgresql://u:secret@host:port/db", "not the URL"),
        ("postgresql://u:sec:ret@secret@ho st:1:2/db", "not the URL"),
    ],
)
def test_urls_that_are_not_known_are_refused_without_being_said(url, said):
    with pytest.raises(ConfigError, match=said) as caught:
        parse_database_url(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_place_is_shown_without_user_and_password():
    shown = parse_database_url("postgresql://user:secret@host:5433/db?password=secret&sslpassword=secret")
    for text in (str(shown), repr(shown), f"{shown}"):
        assert "secret" not in text
        assert "'db' at host" in text


def test_a_folder_that_is_missing_or_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone of the database x\.db does not exist"):
        check_folder(tmp_path / "gone" / "x.db")
    with pytest.raises(ConfigError, match="is a folder"):
        check_folder(tmp_path)
