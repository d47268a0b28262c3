"""The server's side of HTTP/2 connections (RFC 9113), with prior knowledge or after ALPN. Independent of gRPC.

Theory of operation. No task, timer or lock per request; whatever a peer sends ends in a response, a ``RST_STREAM`` or
a ``GOAWAY`` with the code that the RFC names, in bounded memory.

* **Frames in.** `FrameReader` (`frame_reader.py`) turns reads into frames, whatever the pieces: it checks the preface,
  that SETTINGS come first, and the size of frames; it joins HEADERS and CONTINUATION to one header block; and it hands
  on DATA as it comes. It calls `Http2Connection.on_frame` (`connection.py`), which checks and handles each kind.
* **Header blocks.** `HeaderBlocks` (`header_blocks.py`) decodes HPACK, checks that the fields are a request's, and
  remembers blocks that left the compression table alone: clients repeat themselves.
* **Streams.** A new header block opens an `Http2Stream` (`stream.py`), and the `Application` opens a `Call` for it.
  The call gets the body by `received` and responds by `Http2Stream.send`. A stream is *half-closed* once the client
  has sent all. It is *closed* when its trailers are sent, or by a reset from either side, which cancels the call.
  Frames for a stream that was reset a moment ago are expected, and ignored.
* **Flow control in.** What a client sends uses up the windows of its stream and of the connection. They are extended
  when half of them is used: the connection's always, as memory is bounded by streams and by all bodies together; a
  stream's unless its call throttles it.
* **Flow control out.** `SendQueue` (`send_queue.py`) sends what the peer's windows and the socket take. The rest waits
  in its stream, a frame of each in turn. All writes of one turn of the loop leave in one system call. A peer
  that does not read is not read from either.
* **Flood budget.** Frames that ask for nothing (resets, pings, settings, DATA that is empty or in crumbs …) cost the
  server more than the client. `FloodBudget` (`flood_budget.py`) allows some; responses and time give them back. Window
  updates are free while they are due for DATA that was sent.
* **Turns.** A frame is a unit of work, eight bytes of a header block are another. When the units of a turn are spent,
  the rest of a read waits for the connection's next turn, and reading pauses (`transport/turns.py`). A read that costs
  no more than a unary call costs nothing, so that connections with one call at a time wait for no turn.
* **Closing.** A `StreamFault` resets one stream. A `ConnectionFault` cancels all and sends GOAWAY; the socket stays
  half open so that the peer can read why. Draining sends GOAWAY, lets streams end, and closes.
* **States** of connections and streams are tables in `states.py`. A move that is not in them is a bug and raises.
* **Bounds** (`limits.py`): streams, windows, frames, header blocks and lists, remembered resets and blocks, unsent
  bytes (by what calls hand over), and time: for a frame or header block to be completed, for a client to send the rest
  of a message or take a response, for an idle connection. `check_timeouts` compares them once a second.
"""
