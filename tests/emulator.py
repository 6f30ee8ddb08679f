"""An object store for tests: gcp-storage-emulator on loopback, with what of Google's store it leaves out.

    python tests/emulator.py PORT DIR

TensorStore wants the generation of what it reads, and conditional reads and writes; the emulator has none of them. Its
own files are replaced as a whole here, so that it can be killed and started again. The bucket `forbidden` refuses
everything, and `slow` takes SECONDS to accept an object, so that a kill can hit an upload; while a file HURRY lies
beside the objects, it is as fast as the others.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from ports import free_port

BUCKETS = ("bucket", "slow")
SECONDS = 0.4
HURRY = "hurry"


@contextlib.contextmanager
def running_store(folder: Path, port: int | None = None) -> Iterator[tuple[dict[str, str], subprocess.Popen]]:
    """Within, a store that keeps its objects in `folder` runs; yields the environment for clients, and the process."""
    port = port or free_port()
    process = subprocess.Popen([sys.executable, __file__, str(port), str(folder)])
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.time() + 60
        while not _answers(address):
            assert process.poll() is None, "the emulator did not start"
            assert time.time() < until, "the emulator does not answer"
            time.sleep(0.1)
        yield environment(address), process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def environment(address: str) -> dict[str, str]:
    """What tells gcsfs and TensorStore of the store at `address`, and keeps them from looking for a real one."""
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        "GOOGLE_CLOUD_PROJECT": "p",
        "NO_GCE_CHECK": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=1).status == 200
    except OSError:
        return False


def complete() -> None:
    """Gives the emulator what it lacks. Before its server is imported, which makes the table of handlers."""
    from gcp_storage_emulator import storage
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    download, insert = objects.download, objects.insert

    def generation(storage, params, name):
        try:
            return storage.get_file_obj(params["bucket_name"], name)["generation"]
        except NotFound:
            return "0"

    def download_if(request, response, storage, *args, **kwargs):
        now = generation(storage, request.params, request.params["object_id"])
        if request.query.get("ifGenerationNotMatch") == [now]:
            response.status = HTTPStatus.NOT_MODIFIED
            return
        if now != "0":
            response["x-goog-generation"] = now
        download(request, response, storage, *args, **kwargs)

    def insert_if(request, response, storage, *args, **kwargs):
        wanted, name = request.query.get("ifGenerationMatch"), request.query.get("name")
        if wanted and name and wanted != [generation(storage, request.params, name[0])]:
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
        insert(request, response, storage, *args, **kwargs)

    def write_whole(self, rel, content):
        written, target = self._disk_path(f".part{threading.get_ident()}"), self._disk_path(rel)
        target.parent.mkdir(parents=True, exist_ok=True)
        written.write_bytes(content)
        written.replace(target)

    objects.download, objects.insert = download_if, insert_if
    storage._FileStore.write_bytes = write_whole


def main(port: int, folder: str) -> None:
    """Serves until it is killed."""
    complete()
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import buckets

    class Handler(server.RequestHandler):
        def refused(self) -> bool:
            if "/b/forbidden" not in self.path:
                return False
            message = "the caller does not have storage.objects access to the bucket"
            body = json.dumps({"error": {"code": 403, "message": message}}).encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return True

        def do_GET(self):
            if not self.refused():
                super().do_GET()

        def do_POST(self):
            if "/b/slow" in self.path and not Path(folder, HURRY).exists():
                time.sleep(SECONDS)
            if not self.refused():
                super().do_POST()

    server.RequestHandler = Handler
    logging.getLogger().setLevel(logging.CRITICAL)
    emulator = server.create_server("127.0.0.1", port, False, BUCKETS[0], data_dir=folder)
    for bucket in BUCKETS[1:]:
        buckets.create_bucket(bucket, emulator._storage)
    emulator.run()


if __name__ == "__main__":
    os.makedirs(sys.argv[2], exist_ok=True)
    main(int(sys.argv[1]), sys.argv[2])
