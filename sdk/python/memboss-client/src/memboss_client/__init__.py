"""What memboss-vram and memboss-ram share: one connection to the node's agent, and a lease that is held by it. It is an inner part: import
`memboss_vram` or `memboss_ram`. It may not know GPUs of this process, nor how RAM is measured.

- one socket, its calls, and what a fork does to them: `connection.py`; the calls by name: `wire.py`; where the socket is: `socket_path.py`
- a lease over its whole life: `holding.py`; how a request is told: `request.py`; what the agent says, in plain objects: `words.py`
- `async with boss.acquire(...)`: `acquisition.py`; what a GPUBoss and a RAMBoss have in common: `boss.py`, `lease.py`; the synchronous face: `blocking.py`
"""
