"""The machine that a plan is for: how fast it multiplies, remembers and sends."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from user_dir.errors import UserError

PRECISIONS = ("fp32", "fp16", "bf16")
DEVICES = ("gpu", "cpu")
_SUFFIX = ".toml"
_NUMBERS = (
    "gbit_within",
    "gbit_between",
    "latency_within_us",
    "latency_between_us",
    "memory_gib",
    "memory_gbytes_per_s",
    "efficiency",
)
_MAY_BE_ZERO = ("latency_within_us", "latency_between_us")


@dataclass(frozen=True)
class Machine:
    """Rates of a rank and of its links.

    Bandwidths are those of one direction; a link between nodes is shared by the ranks of a node.
    """

    name: str
    about: str
    device: str  # "gpu" or "cpu": on the latter the layer lays rows out a little differently
    gbit_within: float  # Gbit/s of a rank to the others of its node
    gbit_between: float  # Gbit/s of a node
    latency_within_us: float  # microseconds that a message costs
    latency_between_us: float
    memory_gib: float  # of a rank
    memory_gbytes_per_s: float
    efficiency: float  # what matrix products reach of the rates below
    tflops: Mapping[str, float]  # of a rank, by precision
    nodes: int | None = None
    ranks_per_node: int | None = None
    sources: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def flops(self, precision: str) -> float:
        """Operations a second of matrix products, a multiply-add counting as two.

        Raises:
            UserError: nothing is known of that precision.
        """
        if precision not in self.tflops:
            raise UserError(
                f"--precision {precision}: {self.name} says no rate for it, only for "
                f"{', '.join(self.tflops)}; take one of them, or give --tflops"
            )
        return self.tflops[precision] * self.efficiency * 1e12

    @property
    def memory_rate(self) -> float:
        """Bytes a second."""
        return self.memory_gbytes_per_s * 1e9

    @property
    def within(self) -> float:
        """Bytes a second that a rank sends inside its node."""
        return self.gbit_within * 1e9 / 8

    @property
    def between(self) -> float:
        """Bytes a second that a node sends."""
        return self.gbit_between * 1e9 / 8

    @property
    def memory(self) -> float:
        """Bytes of a rank."""
        return self.memory_gib * 2**30

    def changed(self, values: Mapping[str, Any]) -> "Machine":
        """The same with the values that are given (not None)."""
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, **given)


def shipped_machines() -> list[str]:
    """The names of the machines that come with the package."""
    folder = files("user_dir.planning") / "clusters"
    return sorted(
        entry.name.removesuffix(_SUFFIX)
        for entry in folder.iterdir()
        if entry.name.endswith(_SUFFIX)
    )


def read_machine(name: str) -> Machine:
    """A machine that is shipped, by its name, or described by a file.

    Raises:
        UserError: there is none, or it lacks something; says what.
    """
    names = shipped_machines()
    if name in names:
        text = (files("user_dir.planning") / "clusters" / f"{name}{_SUFFIX}").read_text("utf-8")
        return parse_machine(text, name)
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"--cluster {name}: neither a file nor one of {', '.join(names)}; name one of them, or "
            "write a file with --probe --save-cluster"
        )
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--cluster {name}: not a text file in UTF-8") from None
    return parse_machine(text, name)


def parse_machine(text: str, name: str) -> Machine:
    """A machine from TOML; docs/planning.md describes it."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"--cluster {name}: no TOML ({error})") from None
    known = {field.name for field in fields(Machine)} - {"name"}
    for key in values:
        if key not in known:
            raise UserError(f"--cluster {name}: {key} is unknown; known are {', '.join(known)}")
    values = {"about": name, "efficiency": 1.0, **values}
    for key in _NUMBERS:
        _require(_is_rate(values.get(key), least=0, zero=key in _MAY_BE_ZERO), name, key)
    _require(0 < values["efficiency"] <= 1, name, "efficiency", "a share of the peak, up to 1")
    _require(values.get("device") in DEVICES, name, "device", "gpu or cpu")
    rates = values.get("tflops")
    is_table = isinstance(rates, dict) and bool(rates) and set(rates) <= set(PRECISIONS)
    _require(is_table, name, "tflops", f"a table with some of {', '.join(PRECISIONS)}")
    assert isinstance(rates, dict)
    for precision, rate in rates.items():
        _require(_is_rate(rate, least=0), name, f"tflops.{precision}")
    for key in ("nodes", "ranks_per_node"):
        value = values.get(key, 1)
        _require(type(value) is int and value >= 1, name, key, "a whole number of at least 1")
    for key in ("sources", "assumed"):
        lines = values.get(key, [])
        _require(_are_texts(lines), name, key, "a list of texts")
        values[key] = tuple(lines)
    _require(isinstance(values["about"], str), name, "about", "a text")
    return Machine(name=name, **values)


def write_machine(machine: Machine) -> str:
    """The TOML that `parse_machine` reads."""
    lines = []
    for key in ("about", "device", "nodes", "ranks_per_node", *_NUMBERS):
        value = getattr(machine, key)
        if value is not None:
            lines.append(f"{key} = {_toml(value)}")
    rates = ", ".join(f"{key} = {_toml(rate)}" for key, rate in machine.tflops.items())
    lines.append(f"tflops = {{ {rates} }}")
    for key in ("sources", "assumed"):
        texts = ", ".join(_toml(text) for text in getattr(machine, key))
        lines.append(f"{key} = [{texts}]")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_rate(value: object, *, least: float, zero: bool = False) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and least <= value < 1e12 and (zero or value > 0)  # type: ignore[operator]


def _are_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def _require(holds: bool, name: str, key: str, wanted: str = "a positive number") -> None:
    if not holds:
        raise UserError(f"--cluster {name}: {key} must be {wanted}")
