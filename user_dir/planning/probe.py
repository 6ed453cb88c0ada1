"""Measures the machine that this runs on, with all of its processes at work at once.

Shape suffixes: M rows, D width, H hidden width.
"""

import os
import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from user_dir.fast_moe.exchange.all_to_all import Exchange
from user_dir.fast_moe.layout.processes import running_processes
from user_dir.fast_moe.layout.ranks import Layout
from user_dir.planning.machine import Machine

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_ROWS = 1024
_COPIED_BYTES = 2**26
_REPEAT = 5
_LEAST_US = 0.01  # latency where it is too short to tell


def measure_machine(
    layout: Layout,
    *,
    device: torch.device,
    precision: str,
    dim: int,
    hidden: int,
    exchange_bytes: int = 2**23,
) -> Machine:
    """Rates of the running processes. A collective.

    Args:
        layout: of the processes: consecutive ones share a node.
        dim, hidden: widths of the products that are timed.
        exchange_bytes: that a process sends in a large exchange.
    """
    flops = _flops(device, precision, dim, hidden)
    read, written = torch.zeros(2, _COPIED_BYTES // 4, device=device)
    of_copy = _seconds(lambda: written.copy_(read), device)
    memory_rate = 2 * _COPIED_BYTES / of_copy
    assumed = []
    index, num_processes = running_processes()
    per_node = layout.ranks_per_node
    in_node = [rank // per_node == index // per_node for rank in range(num_processes)]
    within, latency_within = memory_rate, 0.0
    if per_node > 1:
        within, latency_within = _link(in_node, device, exchange_bytes)
    else:
        assumed.append("in a node: as fast as memory, for there is one process a node")
    between, latency_between = within * per_node, latency_within
    if layout.num_nodes > 1:
        between, latency_between = _link([not near for near in in_node], device, exchange_bytes)
        between *= per_node
    else:
        assumed.append("between nodes: as in a node, for there is one; --gbit-between says it")
    return Machine(
        name="this machine",
        about=f"measured on {num_processes} processes, {_device_name(device)}",
        device="cpu" if device.type == "cpu" else "gpu",
        gbit_within=within * 8e-9,
        gbit_between=between * 8e-9,
        latency_within_us=1e6 * latency_within,
        latency_between_us=1e6 * latency_between,
        memory_gib=_memory(device, per_node) / 2**30,
        memory_gbytes_per_s=memory_rate * 1e-9,
        efficiency=1.0,
        tflops={precision: flops * 1e-12},
        nodes=layout.num_nodes,
        ranks_per_node=per_node,
        sources=("scomoe-plan --probe",),
        assumed=tuple(assumed),
    )


def _flops(device: torch.device, precision: str, dim: int, hidden: int) -> float:
    """Operations a second of two linear maps, forward and backward."""
    dtype = _DTYPES[precision]
    x_MD = torch.randn(_ROWS, dim, device=device, dtype=dtype, requires_grad=True)
    weight_DH = torch.randn(dim, hidden, device=device, dtype=dtype, requires_grad=True)
    weight_HD = torch.randn(hidden, dim, device=device, dtype=dtype, requires_grad=True)

    def step() -> None:
        (x_MD @ weight_DH @ weight_HD).sum().backward()

    return 3 * 4 * _ROWS * dim * hidden / _seconds(step, device)


def _link(is_peer: list[bool], device: torch.device, exchange_bytes: int) -> tuple[float, float]:
    """Bytes a second that this process sends, and seconds that a message costs."""
    index, _ = running_processes()
    peers = [peer and rank != index for rank, peer in enumerate(is_peer)]
    num_peers = sum(peers)

    def seconds(rows: int) -> float:
        counts = [rows * peer for peer in peers]
        rows_MD = torch.zeros(sum(counts), 64, device=device)
        return _seconds(
            lambda: Exchange(dist.group.WORLD, send_counts=counts, receive_counts=counts).run(
                rows_MD
            ),
            device,
        )

    num_rows = max(2, exchange_bytes // (256 * num_peers))
    small, large = seconds(1), seconds(num_rows)
    rate = 256 * num_peers * (num_rows - 1) / max(large - small, 1e-9)
    return rate, max(small / num_peers, 1e-6 * _LEAST_US)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median of a few calls, on the slowest process. A collective."""
    work()
    times = []
    for _ in range(_REPEAT):
        _wait(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    slowest = torch.tensor(statistics.median(times), dtype=torch.float64, device=device)
    if running_processes()[1] > 1:
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return float(slowest)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if running_processes()[1] > 1:
        dist.barrier()


def _memory(device: torch.device, per_node: int) -> float:
    """Bytes of a process: its GPU's, or its share of the host's."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / per_node


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
