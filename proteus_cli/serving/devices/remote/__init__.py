"""Devices of other machines: this is the server's side, and the agent there (`serving/agent`) the other.

Both have the `channel`. On it stand `sessions`, one for each connection, and on those `links`, one for each host, which
connect again. `measuring` has an agent measure its devices.

Theory of operation
===================

A server has one `links.link.AgentLink` for each host of its cluster, which keeps a `channel.channel.FrameChannel` to
the agent there: a connection over TLS that carries `frames`, each a message (`messages`) and the bytes behind it.
While it is connected it has a `sessions.session.AgentSession`, which `connecting` begins; executors belong to one
session, and are lost with it, all at once.

**Devices.** An executor asks the agent for a device. The agent starts the process of the device and answers with a
token. The server connects to the agent's port again and says the token, and the agent passes that connection to the
process, unread (`channel.handing_over`). From then on the protocol is the one of a device of this machine
(`devices/process/messages.py`), and no batch passes the agent.

**Copies.** A batch of at most 64 KiB is copied into one frame, and a larger one not at all: TLS encrypts the clients'
own memory. The device's process uses large inputs where it received them, and the server large outputs.

**Loss.** The agent sends a sign of life every `BEAT_S`. A host is dead when the server has looked `MAX_SILENT` times,
an interval apart, and neither the agent nor a device sent anything in between (`AgentSession.look`). A server whose
event loop is held up looks late and once, so it does not lose its hosts. A device is lost, too, when its own connection
ends; `REASON_S` later, as the agent may know the reason, or be lost as well. The link then connects again, with pauses
that double. The breaker of a device opens it again (`serving/fleet`), as on this machine.

**Epochs.** Each connection of a server has a higher epoch. A newer connection of the same server replaces the older
one, with all devices that it had open. Answers go to the connection that asked, so late ones reach nobody.

**Several servers** may have a device open. Each has a process of its own there, which then asks the agent for a turn
for each batch (`serving/agent/sharing.py`). The agent tells each server how many they are, and a server counts on its
part (`control/devices/slowness.py`).

**Times.** No message carries a time of a clock that the other end would have to share. The bounds of a multi-exit
model's batch count from its sending, and the device counts them from the batch's arrival. Only the sum of the times of
both ways is known: the server leaves it out of the time that it gives (`Dispatch.exit_bounds`).
"""
