"""An HTTP server of the tests' own, whose answers are as bad as real ones."""

import contextlib
import http.server
import re
import threading
import time


class Server(http.server.ThreadingHTTPServer):
    """Sends content in ways that are asked for.

    Attributes:
      content: What is sent.
      answers: For each path, how it answers the first request, the second, and so on;
        the last one counts for all that follow. See `_ANSWERS`; "" is a good server.
      requests: Path and Range of each request, in their order.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.answers, self.requests = content, {}, []

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        name = self.path.rpartition("/")[0].strip("/")
        if "//" in self.path:  # to a proxy
            name = self.path.split("/")[2]
        number = sum(path == name for path, _ in server.requests)
        server.requests.append((name, wanted))
        answers = server.answers.get(name, [""])
        answer = answers[min(number, len(answers) - 1)]
        if answer == "gone":
            return self.send_error(404)
        content, status, start = server.content, 200, 0
        if wanted and answer != "no ranges":
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            status = 206
        body = content[start:]
        if answer == "lies":
            body = bytes(len(body))
        if answer == "an error page":
            body = b"<html>we are moving</html>"
        self.send_response(status)
        if answer == "endless":
            body = body * 10
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self._send(body, answer)

    def _send(self, body, answer):
        half = len(body) // 2
        if answer in ("cuts", "stalls"):
            self.wfile.write(body[:half])
            if answer == "stalls":
                time.sleep(60)
        elif answer.startswith("slow"):  # and how many bytes a second
            rate = int(answer.split()[1])
            for start in range(0, len(body), rate // 10):
                self.wfile.write(body[start : start + rate // 10])
                time.sleep(0.1)
        else:
            self.wfile.write(body)


@contextlib.contextmanager
def serving(content):
    """Yields a server of that content."""
    server = Server(content)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
