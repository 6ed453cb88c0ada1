"""Languages as a model calls them, found among the files of a published test set."""

import pytest

from user_dir.text.scoring.language_codes import files_in_language

FLORES = ("eng_Latn", "deu_Latn", "zho_Hans", "zho_Hant", "arb_Arab", "ace_Arab", "ace_Latn")
NTREX = ("eng", "eng-GB", "deu", "por", "por-BR", "zho-CN", "zho-TW", "srp-Cyrl")


@pytest.mark.parametrize(
    ("language", "codes", "found"),
    [
        ("en", FLORES, ["eng_Latn"]),
        ("deu_Latn", FLORES, ["deu_Latn"]),
        ("ar", FLORES, ["arb_Arab"]),
        ("zh_CN", FLORES, ["zho_Hans"]),
        ("zh_Hant", FLORES, ["zho_Hant"]),
        ("zh", FLORES, ["zho_Hans", "zho_Hant"]),
        ("ace", FLORES, ["ace_Arab", "ace_Latn"]),
        ("fr", FLORES, []),
        ("en", NTREX, ["eng"]),
        ("en_GB", NTREX, ["eng-GB"]),
        ("pt", NTREX, ["por"]),
        ("pt_BR", NTREX, ["por-BR"]),
        ("zh_TW", NTREX, ["zho-TW"]),
        ("sr", NTREX, ["srp-Cyrl"]),
    ],
)
def test_a_language_is_found_by_any_of_its_names(language, codes, found):
    assert files_in_language(language, codes) == found
