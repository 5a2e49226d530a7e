"""How hard pressed a machine's RAM is, and of what kind the pressure is: the rules of the agent and of `memboss ram`, number by number. Up as soon as a
signal has lasted, down one level at a time and later. It measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Pressure(str, Enum):
    """The level. It is equal to its name, and compared by rank."""

    LOW = "low"
    """Nothing need be done."""
    MODERATE = "moderate"
    """What nobody needs should go."""
    HIGH = "high"
    """New work would hurt what runs."""
    CRITICAL = "critical"
    """The kernel or the kubelet is about to kill."""

    def __str__(self) -> str:
        return self.value

    @property
    def rank(self) -> int:
        """0 for low, 3 for critical."""
        return list(Pressure).index(self)

    def __lt__(self, other: str) -> bool:
        return self.rank < Pressure(other).rank

    def __le__(self, other: str) -> bool:
        return self.rank <= Pressure(other).rank

    def __gt__(self, other: str) -> bool:
        return self.rank > Pressure(other).rank

    def __ge__(self, other: str) -> bool:
        return self.rank >= Pressure(other).rank


class Sign(str, Enum):
    """What a level rests on."""

    LITTLE_AVAILABLE = "LittleAvailable"
    """Little is available."""
    LIMIT_NEAR = "LimitNear"
    """A limit that counts cache is near."""
    STALLS = "Stalls"
    """Tasks wait for memory."""

    def __str__(self) -> str:
        return self.value


class Cause(str, Enum):
    """What would help."""

    NOTHING = "Nothing"
    """Nothing is wrong, or no longer."""
    CACHE = "Cache"
    """Cache counts against a limit that is near, while enough is available: dropping cache that nobody needs helps."""
    IN_USE = "InUse"
    """What is in use cannot be dropped: only its users can give it back."""
    STALLS = "Stalls"
    """Tasks wait although enough is available: something reclaims too eagerly, or the disk is slow."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class _Bounds:
    level: Pressure
    below: tuple[int, int]
    """Entered below that part of all RAM, in percent, and that amount, in MiB."""
    above: tuple[int, int]
    """Left above those."""
    until_limit_mib: int
    """Entered when no more than that is left until a limit."""
    some: float
    """Entered when some waited for more than that share, in percent."""
    all: float
    lasting: float
    """Seconds that a sign must last before it counts."""
    calm: float
    """Seconds of calm before the level is left."""


_GIB = 1024
_NEVER = float("inf")

_LEVELS = (
    _Bounds(Pressure.MODERATE, (10, 16 * _GIB), (13, 20 * _GIB), 1 * _GIB, 10, _NEVER, 10, 60),
    _Bounds(Pressure.HIGH, (5, 8 * _GIB), (7, 11 * _GIB), 384, 40, 5, 2, 60),
    _Bounds(Pressure.CRITICAL, (2, 4 * _GIB), (5, 8 * _GIB), 64, _NEVER, 60, 1, 300),
)
_MODERATE, _HIGH, _ = _LEVELS


@dataclass(frozen=True)
class Signals:
    """What is seen of a machine's RAM at one moment."""

    total_mib: int
    """All of it that is not set aside for huge pages."""
    available_mib: int
    until_limit_mib: int | None = None
    stalled_some: float | None = None
    """In percent of the last 10 s; nothing where the kernel does not tell."""
    stalled_all: float | None = None

    def level(self) -> tuple[Pressure, Sign | None]:
        """The level that these signals show by themselves, and what it rests on: for one look, with nothing known of before."""
        for bounds in reversed(_LEVELS):
            sign = self._sign(bounds)
            if sign is not None:
                return bounds.level, sign
        return Pressure.LOW, None

    def cause(self, level: Pressure) -> Cause:
        """What would help at that level."""
        if level is Pressure.LOW:
            return Cause.NOTHING
        if self.available_mib < self._part(_MODERATE.above):
            return Cause.IN_USE
        if self._is_near_limit(_MODERATE):
            return Cause.CACHE
        if (self.stalled_some or 0) > _MODERATE.some / 2 or (self.stalled_all or 0) > _HIGH.all / 2:
            return Cause.STALLS
        return Cause.NOTHING

    def _part(self, bound: tuple[int, int]) -> int:
        percent, most = bound
        return min(self.total_mib * percent // 100, most)

    def _sign(self, bounds: _Bounds) -> Sign | None:
        if self.available_mib < self._part(bounds.below):
            return Sign.LITTLE_AVAILABLE
        if self.until_limit_mib is not None and self.until_limit_mib <= bounds.until_limit_mib:
            return Sign.LIMIT_NEAR
        if (self.stalled_some or 0) > bounds.some or (self.stalled_all or 0) > bounds.all:
            return Sign.STALLS
        return None

    def _is_near_limit(self, bounds: _Bounds) -> bool:
        return self.until_limit_mib is not None and self.until_limit_mib <= bounds.until_limit_mib * 3 // 2

    def _is_calm(self, bounds: _Bounds) -> bool:
        return (
            self.available_mib >= self._part(bounds.above)
            and not self._is_near_limit(bounds)
            and (self.stalled_some or 0) <= bounds.some / 2
            and (self.stalled_all or 0) <= bounds.all / 2
        )


class Gauge:
    """The level over time. Looks should be about a second apart."""

    def __init__(self) -> None:
        self.level = Pressure.LOW
        self.sign: Sign | None = None
        """What it rests on, or rested on when it rose."""
        self._seen: dict[Pressure, float] = {}
        self._calm: float | None = None

    def look(self, signals: Signals, now: float) -> Pressure:
        """Takes in one look, at a moment in seconds; what the level is now."""
        shown, sign = Pressure.LOW, None
        for bounds in _LEVELS:
            seen = signals._sign(bounds)
            if seen is None:
                self._seen.pop(bounds.level, None)
            elif now - self._seen.setdefault(bounds.level, now) >= bounds.lasting:
                shown, sign = bounds.level, seen
        if shown >= self.level:
            self.sign = sign or (self.sign if shown is not Pressure.LOW else None)
            self.level, self._calm = shown, None
        else:
            self._calm_down(signals, now)
        return self.level

    def _calm_down(self, signals: Signals, now: float) -> None:
        bounds = _LEVELS[self.level.rank - 1]
        if not signals._is_calm(bounds):
            self._calm = None
            return
        if self._calm is None:
            self._calm = now
        if now - self._calm >= bounds.calm:
            self.level, self._calm = list(Pressure)[self.level.rank - 1], now
            if self.level is Pressure.LOW:
                self.sign = None
