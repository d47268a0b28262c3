"""Several agents with emulated devices in one process, each on a port of its own.

`python -m benchmarks.cluster.many_agents COUNT KEY DIRECTORY`; it prints the ports in a line, once all listen.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from proteus_cli.serving.agent.agent import Agent, AgentSettings
from proteus_cli.serving.agent.door import accepting
from proteus_cli.serving.devices.emulated import TimerThread
from proteus_cli.serving.transport.listening import listen


async def _run(count: int, key: Path, directory: Path) -> None:
    ports = list[int]()
    async with AsyncExitStack() as stack:
        timer = stack.enter_context(TimerThread())
        for number in range(count):
            listener = listen("127.0.0.1", 0)
            ports.append(listener.getsockname()[1])
            agent = Agent(AgentSettings((), directory / str(number), key), timer)
            await stack.enter_async_context(accepting(listener, agent.accept, agent.hand_over, agent.tls))
        print(*ports, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_run(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
