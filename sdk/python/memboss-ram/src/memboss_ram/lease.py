"""A lease of host RAM."""

from __future__ import annotations

from memboss_client.lease import Lease
from memboss_client.request import remaining


class RAMLease(Lease):
    """Host RAM. Amounts are MiB."""

    async def shrink(self, ram_mb: int) -> None:
        """Gives a part back: afterwards it holds `ram_mb`."""
        await self._holding.resize(None, remaining("ram_mb", ram_mb))
