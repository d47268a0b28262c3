"""HTTP/1.1 connections and their limits. Independent of inference."""
