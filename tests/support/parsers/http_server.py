"""Python's http.server: tells in X-Seen what it made of each request. It leaves bodies to its user, who reads them here
as its documentation and RFC 9112 say."""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.tell
        raise AttributeError(name)

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                if self.rfile.readline() != b"\r\n":
                    raise ValueError("a chunk is longer than it says")
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            return body
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ValueError("cut")
        return body

    def tell(self):
        try:
            body = self.body()
        except ValueError as error:
            self.close_connection = True
            self.send_error(400, str(error))
            return
        hosts = self.headers.get_all("Host", [])
        seen = {
            "method": self.command,
            "host": ", ".join(hosts),
            "target": self.requestline.split(" ")[1],
            "path": urlsplit(self.path).path,
            "length": len(body),
            "digest": hashlib.sha256(body).hexdigest(),
        }
        self.send_response(200)
        self.send_header("X-Seen", json.dumps(seen))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
