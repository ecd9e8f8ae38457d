"""h11, on which uvicorn and other Python servers stand: tells in X-Seen what it made of each request."""

import hashlib
import json
import socketserver
import sys

import h11


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 17)
        self.request.settimeout(20)
        try:
            while self.one(connection):
                pass
        except (h11.RemoteProtocolError, OSError):
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    def event(self, connection):
        while True:
            event = connection.next_event()
            if event is not h11.NEED_DATA:
                return event
            connection.receive_data(self.request.recv(1 << 16))

    def one(self, connection):
        request = self.event(connection)
        if not isinstance(request, h11.Request):
            return False
        body = b""
        while isinstance(event := self.event(connection), h11.Data):
            body += event.data
        target = request.target.decode("ascii")
        seen = {
            "method": request.method.decode("ascii"),
            "host": ", ".join(value.decode("ascii") for name, value in request.headers if name == b"host"),
            "target": target,
            "path": target.partition("?")[0],
            "length": len(body),
            "digest": hashlib.sha256(body).hexdigest(),
        }
        headers = [("X-Seen", json.dumps(seen)), ("Content-Length", "0")]
        answer = connection.send(h11.Response(status_code=200, headers=headers))
        self.request.sendall(answer + (connection.send(h11.EndOfMessage()) or b""))
        if connection.our_state is not h11.DONE:
            return False
        connection.start_next_cycle()
        return True


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
