"""Every method that there is, with the results that are its own or those of another one.

What a method learns is in results/learning.json, its steps behind a slow link in
results/network.json and its bytes between more nodes in results/network_bytes.json. Some methods
have nothing of their own there because it would be the same as another's: then it says whose.
"""

from dataclasses import dataclass

from benchmarks.learning_picture import FAMILIES, NAMES
from benchmarks.learning_variants import ALL
from benchmarks.network_stacks import STACKS

NOT_MEASURED = "not measured"
# Ways to divide tokens or features whose steps are measured, with clusters and without.
KINDS = ("gshard", "seq", "seq by node", "feat")


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        learned: the variant of benchmarks.learning with its results; None: none can have them.
        stack: likewise of benchmarks.network.
        whose_results, whose_steps: why they are those of another method; empty: they are its own.
        no_results, no_steps: what to say where there are none,
        why_none: and the reason.
    """

    name: str
    family: str
    learned: str | None
    stack: str | None
    whose_results: str = ""
    whose_steps: str = ""
    no_results: str = NOT_MEASURED
    no_steps: str = NOT_MEASURED
    why_none: str = ""

    @property
    def remarks(self) -> str:
        """What a reader must know of its figures."""
        found = (self.whose_results, self.whose_steps, self.why_none)
        return "; ".join(one for one in found if one) or "–"


def all_methods() -> list[Method]:
    """The variants of benchmarks.learning in their order; behind them what differs in exchange."""
    names = [name for _, variants in FAMILIES for name in variants]
    methods = [_of_variant(variant) for variant in names]
    for stack, learned, name in (
        ("gshard, hierarchical", "gshard", "GShard, hierarchical"),
        ("one node a token, hierarchical", "one node a token", "one node a token, hierarchical"),
        ("seq, hierarchical", "seq", "Seq, hierarchical"),
    ):
        same = f"results are those of {_name(learned)}: only the way of the rows differs"
        methods.append(Method(name, "other methods", learned, stack, whose_results=same))
    every_layer = Method(
        "Seq in every layer",
        "controls",
        learned=None,
        stack="seq, all layers",
        no_results="no such model",
        why_none="the first mixture of a model is plain",
    )
    return [*methods, every_layer]


def _of_variant(variant: str) -> Method:
    family = next(name for name, variants in FAMILIES if variant in variants)
    of = {"name": _name(variant), "family": family, "learned": variant}
    given = _values_of(variant)
    if variant in STACKS:
        return Method(**of, stack=variant)
    if given.get("--moe-freq") == "0":
        return Method(**of, stack=None, no_steps="sends nothing")
    if "--moe-cmr" in given:
        whose = "steps are those of a shared expert, which has the same network beside the mixture"
        return Method(**of, stack="shared expert", whose_steps=whose)
    kind = next(k for k in KINDS if _divides_alike(given, _values_of(k)))
    stack = f"{kind}+cluster" if "--token-cluster" in given else kind
    if given.get("--scomoe-partition") == "threshold":
        stack += " by threshold"
    return Method(**of, stack=stack, whose_steps=f"steps are those of {_name(stack)}")


def _divides_alike(one: dict[str, str], other: dict[str, str]) -> bool:
    flags = ("--scomoe-type", "--ratio1", "--ratio2")
    return all(one.get(flag) == other.get(flag) for flag in flags)


def _values_of(variant: str) -> dict[str, str]:
    """What follows each word of a variant's options."""
    options = ALL[variant]
    return dict(zip(options, (*options[1:], ""), strict=False))


def _name(variant: str) -> str:
    return NAMES.get(variant, variant)
