"""The five classes of a lease. They are compared by rank, and equal to their own names."""

from __future__ import annotations

from enum import Enum


class Priority(str, Enum):
    """How important a lease is. A higher class may ask a strictly lower one to give way, with notice."""

    URGENT = "urgent"
    """Never passed in the queue."""
    HIGH = "high"
    """Before normal work."""
    NORMAL = "normal"
    """What is asked for without a word."""
    LOW = "low"
    """After normal work."""
    BATCH = "batch"
    """What can wait and can be asked to go."""

    def __str__(self) -> str:
        return self.value

    @classmethod
    def of(cls, priority: Priority | str) -> Priority:
        """The class of that name, in any case. `ValueError` for what is none."""
        try:
            return cls(str(priority).lower())
        except ValueError:
            names = ", ".join(one.value for one in cls)
            raise ValueError(f"there is no priority {str(priority)!r}: {names} are") from None
