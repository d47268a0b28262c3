"""The REST front end: Open Inference Protocol v2 over HTTP/1.1, the operator's endpoints, and the page."""
