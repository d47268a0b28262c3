"""Devices of other machines: this is the server's side, and the agent there (`serving/agent`) the other.

Both have the `channel`. On it stand `sessions`, one for each connection, and on those `links`, one for each host, which
connect again. `measuring` has an agent measure its devices.

Theory of operation
===================

A server has one `links.link.AgentLink` for each host of its cluster, which keeps a `channel.channel.FrameChannel` to
the agent there: a connection over TLS that carries `frames`, each a message (`messages`) and the tensors behind it.
While it is connected it has a `sessions.session.AgentSession`, which `connecting` begins; executors belong to one
session, and are lost with it, all at once.

**Copies.** A batch of at most 64 KiB is copied into one frame, and a larger one not at all: TLS encrypts the clients'
own memory. The agent receives it where it stays, and copies it once, into the memory that it shares with the device's
process. Outputs come back the same way; large ones are used where they were received.

**Loss.** The agent sends something every `BEAT_S`: an answer, or a frame with nothing in it. A host is dead when the
server has looked `MAX_SILENT` times, an interval apart, and nothing came in between (`sessions.signs_of_life`). A
server whose event loop is held up looks late and once, so it does not lose its hosts. It looks at its hosts in groups,
and pings so that the agents of a group answer together (`sessions.looks`). The link then connects again, with pauses
that double; a device is opened again by its breaker (`serving/fleet`), as those of this machine are.

**Epochs.** Each connection of a server has a higher epoch. A newer connection of the same server replaces the older
one, with all devices that it had open. Answers go to the connection that asked, so late ones reach nobody.

**Several servers** may have a device open. The agent runs their batches in turns (`serving/agent/sharing.py`) and tells
each how many they are; a server then counts on its part (`control/devices/slowness.py`).

**Times.** No message carries a time of a clock that the other end would have to share. The bounds of a multi-exit
model's batch count from its sending, and the agent counts them from when it has the batch. What it is on its way there
and back is known together alone: the server leaves it out of the time that it gives (`Dispatch.exit_bounds`).
"""
