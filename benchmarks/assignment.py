"""Balanced assignment against scipy's and fairseq's solvers: time, quality, validity.

    python -m benchmarks.assignment

Quality is the share of the way from a random balanced assignment (0) to the best one (1).
scipy's solver sees every group as T/G columns. Others' solvers run in a process of their own
with a time limit: fairseq's never ends on some inputs. Their times are taken in that process, in
turns with ours.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Timing, parse_arguments, time_once, write_results
from user_dir.fast_moe.routing import assignment
from user_dir.text.scoring.tables import format_markdown

LIMIT_SECONDS = 15.0
HEADER = ("scores", "solver", "ms", "quality", "valid")
SIZES = [(1024, 8), (2048, 32), (8192, 64)]
SMALL_SIZES = [(64, 4)]
# The torch twin and scipy take minutes beyond these numbers of tokens.
LARGEST_TWIN, LARGEST_SCIPY = 1024, 2048


def draw_scores(family: str, num_tokens: int, num_groups: int) -> Tensor:
    """(T, G) float32, always the same for a family and a size."""
    generator = torch.Generator().manual_seed(17)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if family == "normal":
        return normal(num_tokens, num_groups)
    if family == "real-like":
        # Tokens around a few unequal centres, scored by orthogonal centroids as BalanceGate does.
        dim, num_centres = max(64, num_groups), 2 * num_groups
        shares = 1 / torch.arange(1, num_centres + 1)
        centre_T = torch.multinomial(shares, num_tokens, replacement=True, generator=generator)
        x_TD = 2 * normal(num_centres, dim)[centre_T] + normal(num_tokens, dim)
        weight_GD = 0.1 * torch.linalg.qr(normal(dim, num_groups)).Q.T
        return x_TD @ weight_GD.contiguous().T
    if family == "ties":
        return normal(num_tokens, num_groups).mul(2).round()
    if family == "rank one":
        return normal(num_tokens, 1) * normal(1, num_groups)
    assert family == "ranked"  # all tokens want the same groups, in the same order
    return torch.linspace(1, 0, num_groups) + 0.01 * normal(num_tokens, num_groups)


FAMILIES = ("normal", "real-like", "ties", "rank one", "ranked")


def by_scipy(scores_TG: np.ndarray) -> np.ndarray:
    """The group of each token; T a multiple of G."""
    from scipy.optimize import linear_sum_assignment

    num_tokens, num_groups = scores_TG.shape
    per_group = num_tokens // num_groups
    _, columns = linear_sum_assignment(np.repeat(scores_TG, per_group, axis=1), maximize=True)
    return columns // per_group


def by_libbase(scores_TG: np.ndarray) -> np.ndarray:
    """The group of each token by fairseq's auction; -1 where it forgets one."""
    from fairseq import libbase

    num_tokens, num_groups = scores_TG.shape
    token_N = libbase.balanced_assignment(torch.from_numpy(scores_TG)).numpy()
    groups_T = np.full(num_tokens, -1)
    groups_T[token_N] = np.arange(len(token_N)) // (num_tokens // num_groups)
    return groups_T


class Guarded:
    """A solver in a process of its own, which is given up where it takes too long."""

    def __init__(self, solve: Callable[[np.ndarray], np.ndarray]):
        self._solve = solve
        self._process: BaseProcess | None = None

    def call(self, scores_TG: Tensor) -> tuple[float, Tensor] | None:
        """Seconds and groups; None: no answer within the limit."""
        if self._process is None:
            self._start()
        with suppress(EOFError, BrokenPipeError):
            self._pipe.send(scores_TG.numpy())
            if self._pipe.poll(LIMIT_SECONDS):
                seconds, groups_T = self._pipe.recv()
                return seconds, torch.from_numpy(groups_T).long()
        self.close()
        return None

    def close(self) -> None:
        """End the process; the next call starts another one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._solve), daemon=True)
        self._process.start()
        other.close()
        self._pipe.recv()  # has imported what it needs


def _serve(pipe, solve: Callable[[np.ndarray], np.ndarray]) -> None:
    torch.set_num_threads(1)
    solve(np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32))
    pipe.send("ready")
    while True:
        scores_TG = pipe.recv()
        start = time.perf_counter()
        groups_T = solve(scores_TG)
        pipe.send((time.perf_counter() - start, groups_T))


def main() -> None:
    """Measure every family at every size; print a table and write JSON."""
    args = parse_arguments(__doc__)
    others = {"fairseq libbase": Guarded(by_libbase), "scipy": Guarded(by_scipy)}
    records = []
    try:
        for num_tokens, num_groups in SMALL_SIZES if args.small else SIZES:
            for family in FAMILIES:
                records += run_family(family, num_tokens, num_groups, others, args)
    finally:
        for solver in others.values():
            solver.close()
    print(format_markdown(HEADER, [_row(record) for record in records]))
    print(f"\nwritten to {write_results('assignment', records, args)}")


def run_family(
    family: str,
    num_tokens: int,
    num_groups: int,
    others: dict[str, Guarded],
    args: argparse.Namespace,
) -> list[dict]:
    """Every solver on the same scores, in turns; who gave no answer is not asked again."""
    scores_TG = draw_scores(family, num_tokens, num_groups)
    ours = _own_solvers(scores_TG, args)
    asked = {
        name: solver
        for name, solver in others.items()
        if name != "scipy" or num_tokens <= LARGEST_SCIPY or args.full
    }
    seconds: dict[str, list[float]] = {name: [] for name in [*ours, *asked]}
    groups: dict[str, Tensor] = {name: solve() for name, solve in ours.items()}
    for _ in range(args.repeat):
        for name, solve in ours.items():
            seconds[name].append(time_once(solve, args.device))
        for name, solver in list(asked.items()):
            answer = solver.call(scores_TG)
            if answer is None:
                del asked[name]
                continue
            seconds[name].append(answer[0])
            groups[name] = answer[1]
    best = _sum(scores_TG, assignment.balanced_assignment(scores_TG))
    return [
        {
            "family": family,
            "tokens": num_tokens,
            "groups": num_groups,
            "solver": name,
            "seconds": Timing.of(times) if times else None,
            **_judge(scores_TG, groups.get(name), best),
        }
        for name, times in seconds.items()
    ]


def _own_solvers(scores_TG: Tensor, args: argparse.Namespace) -> dict[str, Callable[[], Tensor]]:
    on_device_TG = scores_TG.to(args.device)
    double_TG = scores_TG.double()
    # On a GPU fetching the scores and sending the groups back belong to the time.
    solvers: dict[str, Callable[[], Tensor]] = {
        "exact": lambda: assignment.balanced_assignment(on_device_TG.cpu()).to(args.device),
        "fixed iterations": lambda: assignment.approximate_assignment(on_device_TG),
    }
    if len(scores_TG) <= LARGEST_TWIN or args.full:
        solvers["exact, in torch"] = lambda: assignment.exact_assignment_in_torch(double_TG)
    return solvers


def _judge(scores_TG: Tensor, groups_T: Tensor | None, best: float) -> dict:
    if groups_T is None:
        return {"valid": False, "quality": None}
    groups_T, (num_tokens, num_groups) = groups_T.cpu(), scores_TG.shape
    valid = bool((groups_T >= 0).all())
    if valid:
        sizes = torch.bincount(groups_T, minlength=num_groups).tolist()
        valid = set(sizes) <= {num_tokens // num_groups, -(-num_tokens // num_groups)}
    random = float(scores_TG.double().sum()) / num_groups
    quality = (_sum(scores_TG, groups_T) - random) / (best - random) if valid else None
    return {"valid": valid, "quality": quality}


def _sum(scores_TG: Tensor, groups_T: Tensor) -> float:
    return float(scores_TG.double().gather(1, groups_T.unsqueeze(1)).sum())


def _row(record: dict) -> tuple[str, ...]:
    quality = record["quality"]
    return (
        f"{record['family']}, {record['tokens']} x {record['groups']}",
        record["solver"],
        str(record["seconds"] or f"over {LIMIT_SECONDS:.0f} s"),
        "" if quality is None else f"{quality:.6f}",
        "yes" if record["valid"] else "no",
    )


if __name__ == "__main__":
    main()
