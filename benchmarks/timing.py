"""Side-by-side timings: interleaved repetitions, peak memory, the machine, results as JSON.

Functions that are compared run in turns, so that a busy machine slows all of them; what is
reported is the median with the smallest and the largest time. On a GPU every time is taken
between two synchronisations.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

# The profiler's library prints two lines for every use otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, over all repetitions."""

    median: float
    min: float
    max: float
    repetitions: int

    @staticmethod
    def of(seconds: list[float]) -> "Timing":
        return Timing(statistics.median(seconds), min(seconds), max(seconds), len(seconds))

    def __str__(self) -> str:
        return f"{1e3 * self.median:.1f} ({1e3 * self.min:.1f} to {1e3 * self.max:.1f})"


def measure(
    functions: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    repeat: int,
    budget: float = float("inf"),
) -> dict[str, Timing]:
    """Call the functions in turns; they must be warm.

    Args:
        repeat: rounds; fewer, but two at least, where they would take more than the budget.
        budget: seconds for all rounds together.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    for done in range(repeat):
        spent = time.perf_counter() - start
        if done >= 2 and spent * (done + 1) / done > budget:
            break
        for name, function in functions.items():
            seconds[name].append(time_once(function, device))
    return {name: Timing.of(times) for name, times in seconds.items()}


def time_once(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(function: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that one call holds beyond what was there before.

    As torch's allocators count them: on a GPU by their statistics, on a CPU by the profiler's
    record of every allocation. What a library allocates for itself is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def profile_table(function: Callable[[], object], device: torch.device, *, rows: int = 25) -> str:
    """Where one call spends its time."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        function()
        synchronize(device)
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return recorded.key_averages().table(sort_by=by, row_limit=rows, max_name_column_width=40)


def hardware(device: torch.device) -> dict[str, object]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu_model(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def parse_arguments(
    description: str | None, extend: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """The options that every benchmark has, and those that ``extend`` adds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", type=torch.device, metavar="cpu|cuda")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (default: 5)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="the full grid; takes long")
    size.add_argument("--small", action="store_true", help="tiny sizes: whether it runs at all")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="where the JSON goes (default: benchmarks/results)",
    )
    if extend:
        extend(parser)
    args = parser.parse_args()
    if args.repeat < 1:
        parser.error(f"--repeat must be at least 1, but is {args.repeat}")
    return args


def results_path(name: str, args: argparse.Namespace) -> Path:
    """The file of a benchmark's figures; GPUs and tiny sizes have their own."""
    suffix = (".cuda" if args.device.type == "cuda" else "") + (".small" if args.small else "")
    return args.results / f"{name}{suffix}.json"


def write_results(name: str, records: list[dict], args: argparse.Namespace) -> Path:
    """Write the figures and what they were taken on as JSON."""
    path = results_path(name, args)
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(args.device),
        "full": args.full,
        "records": records,
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=2, default=_plain) + "\n")
    partial.replace(path)
    return path


def _plain(value: object) -> object:
    return asdict(value) if isinstance(value, Timing) else str(value)
