"""The dictionaries and the binarised text that a task is about to load, checked beforehand."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fairseq.data import Dictionary

from user_dir.errors import CorpusError
from user_dir.text.binarised_files import check_binarised


class FileDictionary(Dictionary):
    """fairseq's, which knows its file and how many symbols that gave.

    A multilingual task adds the tokens of its languages, which no binarised text may hold.
    """

    path = ""
    num_from_file = 0

    @classmethod
    def load(cls, f, add_special_symbols=True):
        """fairseq's.

        Raises:
            CorpusError: the file is damaged; the message names it.
        """
        try:
            dictionary = super().load(f, add_special_symbols=add_special_symbols)
        except OSError as error:
            raise CorpusError(f"{f}: cannot be read ({error.strerror})") from None
        except Exception:  # of whatever type fairseq's parser raises
            # Not its message, which quotes the file: its name may come with a checkpoint.
            raise CorpusError(
                f"{f} is no dictionary of fairseq: a line is no symbol with a number, or the "
                "second one of its symbol, or no UTF-8; get the file again, or binarise the "
                "corpus anew"
            ) from None
        dictionary.path, dictionary.num_from_file = f, len(dictionary)
        return dictionary


@dataclass(frozen=True)
class Side:
    """A language of a pair, and the dictionary that its text is in."""

    language: str
    dictionary: FileDictionary


def check_split(folder: Path, split: str, sides: Sequence[Side], *, combine: bool) -> None:
    """Check what there is of a pair's split, such as train.en-de.en and train.en-de.de.

    With `combine` that of train1, train2 and so on too. What is missing altogether is fairseq's
    to tell.

    Raises:
        CorpusError: a file is cut off or damaged, or holds what its dictionary does not.
    """
    languages = [side.language for side in sides]
    pairs = {"-".join(order) for order in (languages, languages[::-1])}
    for number in itertools.count():
        name = f"{split}{number or ''}"
        is_there = [_check_pair(f"{folder}/{name}.{pair}", sides) for pair in pairs]
        if not combine or not any(is_there):
            return


def _check_pair(prefix: str, sides: Sequence[Side]) -> bool:
    """Whether there is anything of the pair, all of which is whole."""
    is_there, counts = False, {}
    for side in sides:
        path = Path(f"{prefix}.{side.language}")
        if any(Path(f"{path}.{end}").exists() for end in ("idx", "bin")):
            is_there = True
            index = check_binarised(
                path,
                num_symbols=side.dictionary.num_from_file,
                dictionary=side.dictionary.path,
            )
            if index is not None:
                counts[path] = len(index)
    if len(set(counts.values())) > 1:
        (source, first), (target, second) = counts.items()
        raise CorpusError(
            f"{source}.idx has {first} sentences, but {target}.idx has {second}; sentence N of "
            "both must be the same: binarise the corpus anew"
        )
    return is_there
