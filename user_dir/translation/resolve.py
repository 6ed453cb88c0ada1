"""What the options of a translation mean for the checkpoints at hand."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from user_dir import register  # noqa: F401 - what checkpoints name is known
from user_dir.checkpoints.files import model_options, open_checkpoint, task_options
from user_dir.checkpoints.layout import trained_cluster_groups
from user_dir.checkpoints.options.named_files import is_dictionary, read_lines
from user_dir.errors import UserError
from user_dir.translation.data_languages import with_languages
from user_dir.translation.decoding import Decoding
from user_dir.translation.options import checkpoint_paths
from user_dir.translation.overrides import check_overrides

# Tokens of the shortest line that is translated: a piece and the end of the sentence.
_SHORTEST_SOURCE = 2

# What training in one process may do and several processes refuse; decoding has no use for it.
_ONLY_IN_TRAINING = {
    "optimizer": "moe_adam",
    "no_save_optimizer_state": False,
    "store_ema": False,
    "amp": False,
    "memory_efficient_fp16": False,
    "memory_efficient_bf16": False,
}


def resolve(args: argparse.Namespace) -> Decoding:
    """Check the options against the checkpoints, and fill in what these say.

    Raises:
        UserError: something is missing or contradicts; the message names the flag.
    """
    paths = checkpoint_paths(args.path)
    states = [open_checkpoint(path, flag="--path", trusted=args.trust_checkpoint) for path in paths]
    for state in states:
        check_overrides(args.model_overrides, state)
    saved = with_languages({**task_options(states[0]), **args.model_overrides}, args.data)
    overrides = {**args.model_overrides, **_languages(args, saved)}
    data = overrides["data"] = _data_folder(args, saved, overrides)
    if saved.get("lang_dict"):
        overrides["lang_dict"] = _lang_dict(args, saved, data)
        _check_languages_are_listed(overrides, saved)
    # Scores while training; would only ask for its tokenizer here.
    overrides["eval_bleu"] = False
    # By the options as they were trained: those of older checkpoints tell it by their ratios.
    groups = {trained_cluster_groups(model_options(state)) for state in states}
    if len(groups) == 1 and groups != {None}:
        overrides.setdefault("moe_cluster_groups", groups.pop())
    if args.spread_experts:
        if args.processes < 2:
            raise UserError(
                "--spread-experts needs --processes of at least 2 to spread the experts over"
            )
        overrides.update(_ONLY_IN_TRAINING)
    on_cpu = args.cpu or not torch.cuda.is_available()
    if args.spread_experts and not on_cpu and args.processes > torch.cuda.device_count():
        raise UserError(
            f"--spread-experts needs a GPU for each of --processes {args.processes}, but "
            f"{torch.cuda.device_count()} can be seen; lower --processes, or add --cpu"
        )
    if args.fp16 and on_cpu:
        raise UserError("--fp16 is very slow on a CPU; use --bf16, or neither")
    if int(args.max_len_a * _SHORTEST_SOURCE + args.max_len_b) < 1:
        least = 1 - int(args.max_len_a * _SHORTEST_SOURCE)
        raise UserError(
            f"--max-len-a ({args.max_len_a:g}) and --max-len-b ({args.max_len_b}) leave a short "
            f"line no room for any output; --max-len-b must be at least {least}"
        )
    return Decoding(
        paths=paths,
        data=data,
        overrides=overrides,
        beam=args.beam,
        lenpen=args.lenpen,
        max_len_a=args.max_len_a,
        max_len_b=args.max_len_b,
        dtype="float16" if args.fp16 else "bfloat16" if args.bf16 else "float32",
        on_cpu=on_cpu,
        spread_experts=args.spread_experts,
    )


def _languages(args: argparse.Namespace, saved: Mapping[str, Any]) -> dict[str, Any]:
    is_multilingual = saved.get("lang_pairs") is not None
    languages = {}
    for flag, given in ("--source-lang", args.source_lang), ("--target-lang", args.target_lang):
        name = flag[2:].replace("-", "_")
        known = saved.get(name)
        if given is None and known is None:
            pairs = saved.get("lang_pairs") or []
            pairs = pairs if isinstance(pairs, str) else ",".join(pairs)
            about = f" for a checkpoint trained on {pairs}" if pairs else ""
            raise UserError(f"{flag} is needed{about}")
        if not is_multilingual and None not in (given, known) and given != known:
            raise UserError(
                f"{flag} {given}: the checkpoint translates from {saved.get('source_lang')} to "
                f"{saved.get('target_lang')} only; leave the option out"
            )
        languages[name] = given or known
    return languages


def _data_folder(
    args: argparse.Namespace, saved: Mapping[str, Any], languages: Mapping[str, Any]
) -> str:
    data = args.data or saved.get("data")
    if not data:
        raise UserError("--data is needed: the checkpoint names no folder with dictionaries")
    first = data if args.data or os.path.isdir(data) else data.split(":")[0]
    whose = f"--data ({first})" if args.data else f"the checkpoint's data folder ({first})"
    cure = "; name the folder with the dictionaries it was trained with (--data)"
    if not Path(first).is_dir():
        raise UserError(f"{whose} is not there{cure}")
    for side, flag in ("source", "source_dict"), ("target", "target_dict"):
        name = f"dict.{languages[f'{side}_lang']}.txt"
        if saved.get(flag):
            continue
        if not (Path(first) / name).is_file():
            raise UserError(f"{whose} has no {name}{cure}")
        if not is_dictionary(Path(first) / name):
            raise UserError(f"{whose} has a {name} that is no dictionary of fairseq's{cure}")
    return first


def _lang_dict(args: argparse.Namespace, saved: Mapping[str, Any], data: str) -> str:
    """The list that the languages' tokens are numbered by; often in the data folder."""
    if args.lang_dict:
        if not Path(args.lang_dict).is_file():
            raise UserError(f"--lang-dict ({args.lang_dict}): no such file")
        return args.lang_dict
    moved = Path(data) / Path(saved["lang_dict"]).name
    for path in Path(saved["lang_dict"]), moved:
        if path.is_file():
            return str(path)
    raise UserError(
        f"the checkpoint's list of languages ({saved['lang_dict']}) is not there, nor is {moved}; "
        "name it with --lang-dict"
    )


def _check_languages_are_listed(overrides: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    listed = set(read_lines(Path(overrides["lang_dict"])))
    for name in ("source_lang", "target_lang"):
        if overrides[name] not in listed:
            # By its own options: the file's lines may be anything.
            pairs = saved.get("lang_pairs") or ""
            pairs = pairs.split(",") if isinstance(pairs, str) else pairs
            known = sorted({language for pair in pairs for language in pair.split("-")})
            raise UserError(
                f"--{name.replace('_', '-')} {overrides[name]}: the checkpoint knows "
                f"{', '.join(known)}, and its list of languages ({overrides['lang_dict']}) has no "
                "other"
            )
