"""A collector of traces: takes OTLP over HTTP, and keeps the spans."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WITHIN_S = 30.0


@dataclass
class Collector:
    """Spans that have arrived, and the attributes of who sent them; ``url`` is where to send them."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)

    def until(self, holds: Callable[[list[Span]], bool]) -> list[Span]:
        """The spans, once that holds."""
        stop_s = time.monotonic() + WITHIN_S
        while not holds(list(self.spans)):
            assert time.monotonic() < stop_s, self.spans
            time.sleep(0.05)
        return list(self.spans)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = decompress(body)
            collector.paths.add(self.path)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                collector.resources.append(named(resource.resource.attributes))
                for scope in resource.scope_spans:
                    collector.spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as http.server has it
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def named(attributes: Any) -> dict[str, Any]:
    """Attributes as a mapping of plain values."""

    def plain(attribute: KeyValue) -> Any:
        kind = attribute.value.WhichOneof("value")
        assert kind is not None
        return getattr(attribute.value, kind)

    return {attribute.key: plain(attribute) for attribute in attributes}
