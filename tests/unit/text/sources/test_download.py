import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from user_dir.errors import CorpusError
from user_dir.text.sources.download import fetch

CONTENT = bytes(range(256)) * 3000


class Home(BaseHTTPRequestHandler):
    """Serves CONTENT, honours ranges, and breaks off after `break_after` bytes if that is set."""

    honours_ranges = True
    break_after: list[int] = []
    ranges: list[str | None] = []

    def do_GET(self):
        self.ranges.append(self.headers["Range"])
        if self.path != "/file":
            self.send_error(404)
            return
        start = 0
        if self.headers["Range"] and self.honours_ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = start + self.break_after.pop() if self.break_after else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def home():
    class OwnHome(Home):
        break_after = []
        ranges = []

    server = HTTPServer(("127.0.0.1", 0), OwnHome)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    OwnHome.url = f"http://127.0.0.1:{server.server_port}/file"
    yield OwnHome
    server.shutdown()
    thread.join()
    server.server_close()


def accept(path):
    if path.read_bytes() != CONTENT:
        raise CorpusError("damaged")


def get(home, path, **options):
    return fetch(home.url, path, check=accept, pause=0.0, **options)


def test_a_broken_connection_is_continued_where_it_stopped(home, tmp_path):
    home.break_after[:] = [200_000, 100_000]  # popped from the end
    assert get(home, tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert home.ranges == [None, "bytes=100000-", "bytes=300000-"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_later_call_continues_and_a_complete_file_is_not_fetched_again(home, tmp_path):
    home.break_after[:] = [1000]
    with pytest.raises(CorpusError, match=r"file.part.*goes on from there"):
        get(home, tmp_path / "file", attempts=1)
    assert not (tmp_path / "file").exists()
    assert get(home, tmp_path / "file")
    assert home.ranges == [None, "bytes=1000-"]
    assert not get(home, tmp_path / "file")
    assert len(home.ranges) == 2


def test_two_runs_at_a_time_do_not_write_into_each_other_s_file(home, tmp_path):
    second_may_start = threading.Event()
    results = {}

    def check(path):
        accept(path)
        second_may_start.set()
        time.sleep(0.3)  # the second one waits meanwhile

    def first():
        results["first"] = fetch(home.url, tmp_path / "file", check=check)

    thread = threading.Thread(target=first)
    thread.start()
    assert second_may_start.wait(20)
    results["second"] = get(home, tmp_path / "file")
    thread.join()
    assert results == {"first": True, "second": False}
    assert len(home.ranges) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_server_without_ranges_starts_from_the_first_byte(home, tmp_path):
    home.honours_ranges = False
    (tmp_path / "file.part").write_bytes(CONTENT[:777])
    assert get(home, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_all_bytes_there_but_not_renamed_yet(home, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert get(home, tmp_path / "file")
    assert home.ranges == [f"bytes={len(CONTENT)}-"]


def test_bytes_longer_than_the_file_are_replaced(home, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert get(home, tmp_path / "file")


def test_damage_is_thrown_away_so_that_the_next_call_starts_afresh(home, tmp_path):
    (tmp_path / "file.part").write_bytes(b"other" * 100)
    with pytest.raises(CorpusError, match="damaged"):
        get(home, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    assert get(home, tmp_path / "file")


def test_a_file_that_is_not_there_is_asked_for_once(home, tmp_path):
    with pytest.raises(CorpusError, match="404"):
        fetch(f"{home.url}s", tmp_path / "file", check=accept, pause=0.0)
    assert len(home.ranges) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_home_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"127.0.0.1:9.*download failed"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", check=accept, attempts=2, pause=0.0)
