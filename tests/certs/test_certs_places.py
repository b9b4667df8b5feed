"""``certs`` is as strict about places as the vault, and clears up after a command that was killed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certs.test_certs_files import NOW, A, mode, tree
from tests.cli.cli_kit import Shell
from tests.kills import KILLED, nursery
from token_relay.ca import store as certs
from token_relay.cli.main import main
from token_relay.host.atomic_files import make_directory, remove_drafts
from token_relay.host.device_key import write_csr
from token_relay.protocol.errors import LocalError

KILLS_MAX = 60
NOBODY = 65534


@pytest.fixture
def umask_000() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    return Shell(monkeypatch, {"HOME": str(tmp_path / "user"), "COLUMNS": "300"})


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    certs.init(tmp_path / "ca", hosts=("broker.example",), now=NOW)
    (tmp_path / "home").mkdir()
    write_csr(tmp_path / "home", A)
    return tmp_path / "ca"


def all_refuse(ca: Path) -> str:
    """Return the one refusal of all commands; nothing was changed."""
    request = ca.parent / "home/device.csr"
    before, said = tree(ca.parent), set()
    commands: list[Callable[[], object]] = [
        lambda: certs.init(ca, force=True, now=NOW),
        lambda: certs.sign(ca, request, now=NOW),
        lambda: certs.issue(ca, "other.example", now=NOW),
        lambda: certs.renew(ca, now=NOW),
        lambda: certs.revoke(ca, "broker.example", now=NOW),
        lambda: certs.list_issued(ca),
        lambda: certs.clean(ca),
    ]
    for command in commands:
        with pytest.raises(LocalError) as caught:
            command()
        said.add(str(caught.value))
    assert tree(ca.parent) == before
    (one,) = said
    return one


# -- Places ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", "broker"])
def test_directory_that_others_may_write_to_is_refused(ca: Path, name: str) -> None:
    (ca / name).chmod(0o777)
    assert "others may write to directory" in all_refuse(ca)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has directories of other users")
@pytest.mark.parametrize("name", [".", "broker"])
def test_directory_of_another_user_is_refused(ca: Path, name: str) -> None:
    os.chown(ca / name, NOBODY, NOBODY)
    assert "belongs to another user" in all_refuse(ca)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has directories of other users")
def test_nothing_is_made_in_a_directory_of_another_user_or_through_a_link_of_theirs(tmp_path: Path) -> None:
    theirs, link, mine = tmp_path / "theirs", tmp_path / "link", tmp_path / "mine"
    theirs.mkdir()
    theirs.chmod(0o777)
    os.chown(theirs, NOBODY, NOBODY)
    mine.mkdir(0o755)
    link.symlink_to(mine)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    for place in (theirs, link):
        with pytest.raises(LocalError, match="belongs to another user"):
            certs.init(place, hosts=("broker.example",), now=NOW)
    assert list(theirs.iterdir()) == list(mine.iterdir()) == []


def test_link_that_was_planted_in_place_of_the_brokers_directory_is_not_followed(ca: Path) -> None:
    elsewhere = ca.parent / "elsewhere"
    (ca / "broker").rename(elsewhere)
    (ca / "broker").symlink_to(elsewhere)
    assert all_refuse(ca).endswith("broker is a link")


def test_link_planted_before_the_first_init_is_not_followed(tmp_path: Path) -> None:
    for name in ("ca", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "ca/broker").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalError, match="is a link"):
        certs.init(tmp_path / "ca", hosts=("broker.example",), now=NOW)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_own_link_to_the_directory_serves(ca: Path) -> None:
    (ca.parent / "link").symlink_to(ca)
    assert certs.list_issued(ca.parent / "link") == certs.list_issued(ca)


@pytest.mark.parametrize("which", ["request", "out", "key", "index"])
def test_fifo_in_place_of_a_file_is_refused_at_once(ca: Path, which: str) -> None:
    places = {
        "request": ca.parent / "home/device.csr",
        "out": ca.parent / "out",
        "key": ca / "ca.key",
        "index": ca / "index.json",
    }
    places[which].unlink(missing_ok=True)
    os.mkfifo(places[which])
    with pytest.raises(LocalError, match="not a regular file"):
        certs.sign(ca, places["request"], places["out"], now=NOW)
    assert stat.S_ISFIFO(places[which].lstat().st_mode)


@pytest.mark.usefixtures("umask_000")
def test_parents_are_closed_to_others_whatever_the_umask(tmp_path: Path, shell: Shell) -> None:
    certs.init(tmp_path / "a/b/ca", hosts=("broker.example",), now=NOW)
    home = tmp_path / "h/x/y"
    words = ("companion", "init", "--broker", "mqtt://127.0.0.1:1884", "--name", "w", "--home", str(home))
    assert shell(*words).code == 0
    assert shell("service", "install", "--root", str(tmp_path / "root"), "--program", "/opt/x").code == 0
    made = [path for top in ("a", "h", "root") for path in [tmp_path / top, *(tmp_path / top).rglob("*")]]
    assert len(made) > 40
    assert [path for path in made if not path.is_symlink() and mode(path) & 0o022] == []
    assert mode(home) == 0o700 and mode(tmp_path / "a/b/ca") == 0o755


def test_stricter_umask_is_kept_for_parents(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make_directory(tmp_path / "a/b", mode=0o755)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "a"), mode(tmp_path / "a/b")) == (0o700, 0o755)


# -- After a kill ------------------------------------------------------------------------------------------


def drafts(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob(".*"))


@pytest.mark.parametrize(
    "words",
    [
        ("init", "--host", "broker.example", "--force"),
        ("issue", "other.example"),
        ("sign", "home/device.csr"),
        ("revoke", "broker.example"),
    ],
    ids=lambda words: words[0],
)
def test_killed_at_any_step_the_next_command_leaves_no_draft_and_says_so(
    ca: Path, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, given = tmp_path / "image", [str(tmp_path / word) if "/" in word else word for word in words]
    work = [ca, tmp_path / "home"]
    for place in work:
        shutil.copytree(place, image / place.name)
    seen = kills = 0
    with nursery(tmp_path, "certs", *given, "--dir", ca) as end_of:
        for number in range(1, KILLS_MAX):
            for place in work:
                shutil.rmtree(place)
                shutil.copytree(image / place.name, place)
            code = end_of(number)
            assert code in (0, KILLED)
            left = drafts(tmp_path)
            assert [name for name in drafts(ca / "broker") if "key" in name] == [], "it may be copied elsewhere"
            capsys.readouterr()
            again = ["certs", *given, "--dir", str(ca)]
            assert main(again) == 0, capsys.readouterr().err
            assert drafts(tmp_path) == []
            said = capsys.readouterr().err
            assert [name for name in left if f"{name}: a command that was killed had left it" not in said] == []
            seen += len(left)
            kills += code == KILLED
            if code == 0:
                break
    assert kills >= 4 and seen >= 2


def test_only_drafts_of_the_named_files_are_removed(tmp_path: Path) -> None:
    keep = ["ca.key", ".ca.key", ".ca.key.0123", ".xca.key.0123456789abcdef", ".other.0123456789abcdef", "ca.key.bak"]
    for name in (*keep, ".ca.key.0123456789abcdef"):
        (tmp_path / name).write_bytes(b"")
    assert remove_drafts(tmp_path, "ca.key") == [tmp_path / ".ca.key.0123456789abcdef"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keep)
    assert remove_drafts(tmp_path / "missing", "ca.key") == []


def test_init_of_an_agent_that_was_killed_leaves_no_draft(tmp_path: Path, shell: Shell) -> None:
    home = tmp_path / "h/home"
    words = ("companion", "init", "--broker", "mqtt://127.0.0.1:1884", "--name", "w", "--home", str(home))
    seen = 0
    with nursery(tmp_path / "h", *words) as end_of:
        for number in range(1, KILLS_MAX):
            shutil.rmtree(tmp_path / "h", ignore_errors=True)
            code = end_of(number)
            left = drafts(tmp_path / "h") if (tmp_path / "h").exists() else []
            again = shell(*words, "--force")
            assert again.code == 0, again.err
            assert drafts(tmp_path / "h") == []
            assert [name for name in left if name not in again.err] == []
            seen += len(left)
            if code == 0:
                break
    assert seen >= 3
