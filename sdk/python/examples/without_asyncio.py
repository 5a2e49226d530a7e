"""The same leases in a plain program: its loop asks whether it must go."""

from memboss_vram import LeaseLost
from memboss_vram.sync import GPUBoss


def step(number: int) -> None:
    print("step", number)


with GPUBoss() as boss:
    with boss.acquire(vram_mb=8000, set_visible_devices=True) as lease:
        try:
            for number in range(3):
                lease.check()
                step(number)
        except LeaseLost as error:
            print("stopped:", error)
