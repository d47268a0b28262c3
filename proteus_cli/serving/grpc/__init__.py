"""The gRPC front end: a small HTTP/2 server, gRPC's framing over it, and the services, which only translate."""
