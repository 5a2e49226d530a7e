"""The public surface is what `sdk/surface.json` lists, which the packages of other languages are compared with as well. `python tests/test_surface.py` writes
it again from the packages: look at the difference before it is committed."""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import memboss_ram
import memboss_vram

LIST = Path(__file__).resolve().parents[2] / "surface.json"
PACKAGES = {"vram": memboss_vram, "ram": memboss_ram}


def parameters(function: Any) -> list[str]:
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
    return [name for name in names if not name.startswith("_")]


def of_class(kind: type) -> dict[str, Any]:
    if issubclass(kind, enum.Enum):
        return {"kind": "enum", "members": {member.name: member.value for member in kind}}
    if issubclass(kind, Exception):
        bases = [base.__name__ for base in kind.__bases__ if base.__module__.startswith("memboss")]
        told: dict[str, Any] = {"kind": "error", "is_a": bases[0] if bases else None}
        return told if bases else told | {"properties": sorted(vars(kind("")))}
    methods, properties = {}, []
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            properties.append(name)
        elif inspect.isfunction(member):
            methods[name] = parameters(member)
    fields = [name for name in getattr(kind, "__dataclass_fields__", {}) if not name.startswith("_")]
    attributes = [] if fields else assigned(kind)
    told = {"kind": "record" if fields else "class"}
    if not fields and kind.__name__.endswith(("Boss", "er", "or")):
        told["new"] = parameters(inspect.getattr_static(kind, "__init__"))
    if methods:
        told["methods"] = methods
    told["properties"] = sorted({*properties, *fields, *attributes})
    return told


def assigned(kind: type) -> list[str]:
    """Attributes that `__init__` gives, as a notice has them."""
    names = inspect.getattr_static(kind, "__init__").__code__.co_names if kind.__name__ == "Notice" else ()
    given = ("id", "lease", "preemptor", "preemptor_priority", "reason", "needed_mib", "needed_ram_mib")
    return [name for name in names if name in given]


def surface() -> dict[str, Any]:
    classes = {name: of_class(getattr(package, name)) for package in PACKAGES.values() for name in package.__all__}
    shared = sorted(set(memboss_vram.__all__) & set(memboss_ram.__all__))
    own = {name: sorted(set(package.__all__) - set(shared)) for name, package in PACKAGES.items()}
    about = "The public names of the packages, in all languages: snake_case here is camelCase where a language writes it so."
    return {"about": about, "in_all_packages": shared, "packages": own, "classes": dict(sorted(classes.items()))}


def test_the_packages_have_the_surface_that_is_listed() -> None:
    assert surface() == json.loads(LIST.read_text()), "python tests/test_surface.py writes the list again"


def test_what_packages_share_is_the_same_and_none_has_another_s_classes() -> None:
    for name in set(memboss_vram.__all__) & set(memboss_ram.__all__):
        assert getattr(memboss_vram, name) is getattr(memboss_ram, name)
    assert [member.name for member in memboss_vram.Priority] == ["URGENT", "HIGH", "NORMAL", "LOW", "BATCH"]
    for package, other in ((memboss_vram, "memboss_ram"), (memboss_ram, "memboss_vram")):
        foreign = [name for name, value in vars(package).items() if getattr(value, "__module__", "").startswith(other)]
        assert not foreign


@pytest.mark.parametrize(("package", "other"), [("memboss_vram", "memboss_ram"), ("memboss_ram", "memboss_vram")])
def test_each_package_works_without_the_other(package: str, other: str) -> None:
    script = (
        f"import sys; sys.modules[{other!r}] = None; import {package}, {package}.sync; print({package}.Priority.HIGH)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "high\n"


def test_the_synchronous_face_has_the_same_words() -> None:
    for package in PACKAGES.values():
        blocking = importlib.import_module(f"{package.__name__}.sync")
        for name in ("GPUBoss", "GPULease", "RAMBoss", "RAMLease"):
            if hasattr(package, name):
                one, other = of_class(getattr(package, name)), of_class(getattr(blocking, name))
                assert (one.get("methods"), one["properties"]) == (other.get("methods"), other["properties"]), name


if __name__ == "__main__":
    LIST.write_text(json.dumps(surface(), indent=2) + "\n")
