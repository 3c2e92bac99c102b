"""A collector of traces: OTLP over HTTP, protobuf, plain or gzip. Takes them, refuses them, or never answers."""

import gzip
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass
class Told:
    """A span as it came over the wire."""

    service: str
    instance: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    began_ns: int
    ended_ns: int
    attributes: dict
    events: list
    links: list
    error: bool


@dataclass
class Collector:
    """What has come in so far."""

    url: str = ""
    status: int = 200
    """What it answers."""
    hangs: bool = False
    """It takes the request and never answers."""
    spans: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    """Of each: its path and its content encoding."""
    released: threading.Event = field(default_factory=threading.Event)

    def named(self, beginning):
        return [span for span in self.spans if span.name.startswith(beginning)]

    def one(self, beginning):
        (span,) = self.named(beginning)
        return span

    def waited_for(self, count, beginning="", within_s=20.0):
        """So many spans, once they are there."""
        until = time.monotonic() + within_s
        while len(self.named(beginning)) < count:
            assert time.monotonic() < until, [span.name for span in self.spans]
            self.released.wait(0.02)
        return self.named(beginning)


@contextmanager
def collecting(**options):
    """A collector on a free port."""
    found = Collector(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            encoding = self.headers.get("Content-Encoding", "")
            found.requests.append((self.path, encoding))
            if found.hangs:
                found.released.wait()
                self.close_connection = True
                return
            if found.status == 200:
                read = ExportTraceServiceRequest.FromString(gzip.decompress(body) if encoding == "gzip" else body)
                found.spans.extend(_spans(read))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(found.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        yield found
    finally:
        found.released.set()
        server.shutdown()
        serving.join()
        server.server_close()


def _spans(request):
    for of_resource in request.resource_spans:
        who = _plain(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Told(
                    service=who.get("service.name", ""),
                    instance=who.get("service.instance.id", ""),
                    name=span.name,
                    kind=span.kind,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    began_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                    attributes=_plain(span.attributes),
                    events=[(event.name, _plain(event.attributes)) for event in span.events],
                    links=[link.span_id.hex() for link in span.links],
                    error=span.status.code == 2,
                )


def _plain(attributes):
    return {one.key: _value(one.value) for one in attributes}


def _value(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
