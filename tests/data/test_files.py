"""Files are found, downloaded and checked; whatever is wrong with them is reported in one line."""

import gzip
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest
import requests

from src.config.errors import UserError
from src.data.files import File, _Bar, read
from tests.data.made_up import described

CONTENT = b"some content, longer than a few bytes" * 3
FILE = described(File("set/name.bin", 0, "", "http://127.0.0.1:9/name.bin", "made up"), CONTENT)


def put(folder, content, name="set/name.bin"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def refused(folder, file=FILE):
    with pytest.raises(UserError) as caught:
        read(file, str(folder))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def served():
    """Serve one content over HTTP: `served(content)` returns the address."""
    servers = []

    class Answer(BaseHTTPRequestHandler):
        def __init__(self, *arguments, content):
            self.content = content
            super().__init__(*arguments)

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.content)))
            self.end_headers()
            self.wfile.write(self.content)

        def log_message(self, *_):
            pass

    def serve(content):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Answer, content=content))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/name.bin"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_file_that_is_there_is_read_compressed_or_not(tmp_path):
    put(tmp_path / "plain", CONTENT)
    put(tmp_path / "packed", gzip.compress(CONTENT), "set/name.bin.gz")
    assert read(FILE, str(tmp_path / "plain")) == read(FILE, str(tmp_path / "packed")) == CONTENT


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it has 0 bytes, not 111"),
        (CONTENT[:50], "it has 50 bytes, not 111"),
        (CONTENT * 1000, "it has more than 111 bytes;"),
        (CONTENT[:-1] + b"?", "its sha256 is "),
    ],
    ids=["empty", "truncated", "too large", "another"],
)
def test_a_file_that_is_another_is_refused_in_one_line(content, says, tmp_path):
    put(tmp_path, content)
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}/set/name.bin: not the published file: {says}")
    assert message.endswith("; remove it to download it again")


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(CONTENT)[:-12]], ids=["empty", "no gzip", "cut"])
def test_a_damaged_compressed_file_is_refused_in_one_line(content, tmp_path):
    put(tmp_path, content, "set/name.bin.gz")
    assert f"{tmp_path}/set/name.bin.gz: " in refused(tmp_path)


def test_a_small_file_that_unpacks_to_a_large_one_is_not_unpacked(tmp_path):
    put(tmp_path, gzip.compress(bytes(10**7)), "set/name.bin.gz")
    assert "it has more than 111 bytes" in refused(tmp_path)


@pytest.mark.parametrize(
    ("folder", "says"), [("~nobody-here/data", "home directory"), ("a" * 300, "File name too long")]
)
def test_a_folder_that_cannot_be_searched_is_named(folder, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refusal = refused(folder)
    assert refusal.startswith(f"{folder}: ")
    assert says in refusal
    assert not list(tmp_path.iterdir())


def test_a_folder_instead_of_a_file_is_refused(tmp_path):
    (tmp_path / "set" / "name.bin").mkdir(parents=True)
    assert refused(tmp_path) == f"{tmp_path}/set/name.bin: not a file"


def test_a_file_that_is_not_there_is_downloaded_once(tmp_path, served):
    file = replace(FILE, url=served(CONTENT))
    assert read(file, str(tmp_path)) == CONTENT
    assert (tmp_path / "set" / "name.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["name.bin"]
    assert read(replace(file, url="http://127.0.0.1:9/"), str(tmp_path)) == CONTENT


def test_a_compressed_file_is_downloaded_as_it_is(tmp_path, served):
    file = replace(FILE, url=served(gzip.compress(CONTENT)) + ".gz")
    assert read(file, str(tmp_path)) == CONTENT
    assert (tmp_path / "set" / "name.bin.gz").exists()


def test_another_file_at_the_address_is_not_kept(tmp_path, served):
    file = replace(FILE, url=served(CONTENT[:-1] + b"?"))
    assert f"{tmp_path}/set/name.bin: no such file, and the download failed (" in refused(tmp_path, file)
    assert list((tmp_path / "set").iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"<html>sign in</html>", gzip.compress(CONTENT)[:-12], gzip.compress(b"other")],
    ids=["another page", "cut", "another file"],  # otherwise built from the content, into which gzip writes the time
)
def test_another_compressed_file_at_the_address_is_not_kept(content, tmp_path, served):
    file = replace(FILE, url=served(content) + ".gz")
    says = f"{tmp_path}/set/name.bin.gz: no such file, and the download failed (this address has another file)"
    assert says in refused(tmp_path, file)
    assert list((tmp_path / "set").iterdir()) == []


def test_the_bar_of_a_download_that_is_too_large_stops_it():
    with _Bar("name", 10**6) as bar:
        for _ in range(16):
            bar.update(2**16)
        with pytest.raises(ValueError, match="more than 1,000,000 bytes"):
            bar.update(2**16)


def test_without_a_network_a_line_says_so(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise requests.ConnectionError("Failed to resolve 'example.org'")

    monkeypatch.setattr(pooch, "retrieve", fail)
    assert refused(tmp_path) == (
        f"{tmp_path}/set/name.bin: no such file, and the download failed (Failed to resolve 'example.org'); put the "
        f"file from {FILE.url} there, or set task.data_dir to a folder that has it"
    )


def test_a_file_that_is_not_public_is_never_asked_for(tmp_path):
    file = replace(FILE, url=None, terms="it belongs to somebody")
    assert refused(tmp_path, file) == (
        f"{tmp_path}/set/name.bin: no such file, and it cannot be downloaded; it belongs to somebody: put your "
        "own copy there"
    )
