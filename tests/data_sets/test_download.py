"""Downloads that break, go on, happen at once, or give another file."""

from __future__ import annotations

import hashlib
import http.server
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gvbsm.data.download import download
from gvbsm.errors import UserError

CONTENT = random.Random(0).randbytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server:
    """A server of one file that closes each connection after `breaks_after` bytes, and may know no ranges."""

    def __init__(self) -> None:
        self.content, self.breaks_after, self.has_ranges = CONTENT, len(CONTENT), True
        self.asked: list[str | None] = []  # ranges
        self.sent = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers["Range"]
                outer.asked.append(asked)
                first = int(asked[6:-1]) if asked and outer.has_ranges else 0
                rest = outer.content[first:]
                if asked and outer.has_ranges and not rest:
                    self.send_error(416)
                    return
                self.send_response(206 if asked and outer.has_ranges else 200)
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                outer.sent += len(rest[: outer.breaks_after])
                self.wfile.write(rest[: outer.breaks_after])

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/x.bin"


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    threading.Thread(target=one.server.serve_forever, daemon=True).start()
    yield one
    one.server.shutdown()
    one.server.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_goes_on_after_broken_connections(server, tmp_path):
    server.breaks_after = 1_000_000
    download("x", tmp_path / "x.bin", server.url, MD5)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and names(tmp_path) == ["x.bin"]
    assert server.asked == [None, "bytes=1000000-", "bytes=2000000-"] and server.sent == len(CONTENT)


def test_the_next_one_goes_on_where_a_killed_one_stopped(server, tmp_path):
    (tmp_path / ".x.bin.part").write_bytes(CONTENT[:12_345])
    download("x", tmp_path / "x.bin", server.url, MD5)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and names(tmp_path) == ["x.bin"]
    assert server.asked == ["bytes=12345-"]


def test_what_is_there_stays_for_the_next_one_and_the_message_says_so(server, tmp_path):
    (tmp_path / ".x.bin.part").write_bytes(CONTENT[:12_345])
    server.breaks_after = 0
    with pytest.raises(
        UserError, match=r"12,345 of 3,000,000 bytes came; repeat the command to go on after 12,345 bytes, or put"
    ):
        download("x", tmp_path / "x.bin", server.url, MD5)
    assert names(tmp_path) == [".x.bin.part"]


@pytest.mark.parametrize("part", [CONTENT, b"of an older file", CONTENT + b"more"])
@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_whole_or_another_part(server, tmp_path, part, has_ranges):
    server.has_ranges = has_ranges
    (tmp_path / ".x.bin.part").write_bytes(part)
    download("x", tmp_path / "x.bin", server.url, MD5)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT and names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("part", [b"", CONTENT[:5]])
def test_nothing_is_left_of_another_file(server, tmp_path, part):
    server.content = CONTENT[::-1]
    (tmp_path / ".x.bin.part").write_bytes(part)
    with pytest.raises(UserError, match=r"could not be had: the file there has MD5 \w{32}; put the file from .* there, please"):
        download("x", tmp_path / "x.bin", server.url, MD5, ", please")
    assert names(tmp_path) == []


def test_without_a_network_nothing_is_left(tmp_path):
    with pytest.raises(UserError, match=r"x: expected .*x\.bin \(MD5 \w+\), which could not be had: .*refused.*; put the file"):
        download("x", tmp_path / "x.bin", "http://127.0.0.1:9/x.bin", MD5)
    assert names(tmp_path) == []


def test_two_downloads_at_once(server, tmp_path):
    errors = []

    def fetch() -> None:
        try:
            download("x", tmp_path / "x.bin", server.url, MD5)
        except UserError as error:
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and (tmp_path / "x.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["x.bin"] and len(server.asked) == 1
