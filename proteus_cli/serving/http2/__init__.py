"""HTTP/2 on a connection: frames, header blocks, flow control, limits. Knows nothing of gRPC or inference."""
