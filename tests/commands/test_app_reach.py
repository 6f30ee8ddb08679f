"""Who reaches the page of `jaxdbd app`, under which name and port; and how the command ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from urllib.error import HTTPError

import pytest
from browser import SECONDS
from commands.test_app import ROOT, fetched, serve, weights_file  # noqa: F401
from ports import free_port

pytest.importorskip("nicegui", reason="needs nicegui: pip install 'jaxdbd[app]'")


def websocket_status(port: int, **headers: str) -> int:
    """What the server answers to a browser that wants the page's socket."""
    lines = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    lines |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        path = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
        connection.sendall(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        return int(connection.recv(64).split()[1])


@pytest.mark.slow
def test_behind_a_forwarded_port_the_page_works_and_foreign_ones_do_not(tmp_path, weights_file):  # noqa: F811
    for served in serve(tmp_path, weights_file, "--allow_host=Box.example.org"):
        for host, origin, status in (
            ("localhost:8080", "http://localhost:8080", 101),  # ssh -L 8080:localhost:PORT
            ("127.0.0.1:5173", "http://127.0.0.1:5173", 101),
            ("localhost", "http://localhost", 101),
            ("box.example.org", "https://box.example.org", 101),
            (f"127.0.0.1:{served.port}", "https://box.example.org", 101),  # what forwards it has put its own Host
            ("localhost:8080", "http://localhost:3000", 403),  # a page of another program on this machine
            ("localhost:8080", "http://evil.example", 403),
            ("box.example.org", "http://evil.example", 403),
            ("localhost:8080", "null", 403),
            ("evil.example:8080", "http://evil.example:8080", 400),
            ("box.example.org.evil.example", "http://box.example.org.evil.example", 400),
        ):
            assert websocket_status(served.port, Host=host, Origin=origin) == status, (host, origin)
            if status == 101:
                assert fetched(served.address, Host=host, Origin=origin)
            else:
                with pytest.raises(HTTPError, match=str(status)):
                    fetched(served.address, Host=host, Origin=origin)


@pytest.mark.parametrize(
    ("origin", "host", "names", "may"),
    [
        ("http://localhost:8080", "localhost:8080", (), True),
        ("http://localhost:8080", "localhost:7860", (), False),
        ("https://localhost:8080", "localhost:8080", (), False),
        ("http://box:1", "127.0.0.1:7860", ("box",), True),
        ("https://box", "box", ("box",), True),
        ("ftp://box", "box", ("box",), False),
        ("http://box@evil.example", "127.0.0.1", ("box",), False),
        ("http://evil.example", "127.0.0.1:7860", ("box",), False),
        ("http://[", "[", (), False),
        ("null", "null", (), False),
        ("http://", "", (), True),  # no browser says so, and no page is there
    ],
)
def test_whose_pages_may_ask(origin, host, names, may):
    from jaxdbd.photographs.app.server import may_ask

    assert may_ask(origin, host, names) == may


@pytest.mark.slow
def test_ctrl_c_while_the_network_compiles_is_130_and_quiet(tmp_path):
    # An empty cache, and nothing that tells NiceGUI of a test.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jaxdbd", "app", f"--port={free_port()}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=SECONDS)
    assert (process.returncode, rest, told) == (130, "", "")


@pytest.mark.slow
def test_a_thread_that_computes_on_is_not_waited_for():
    code = "import time; from jaxdbd.photographs.app.server import end_soon; end_soon(); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=50)
    assert done.returncode == 130
