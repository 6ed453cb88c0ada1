"""The faults are met by the small models that the tests of the commands train."""

from tests.scripts.conftest import Trained, bilingual, clustered, multilingual, three_languages

__all__ = ["Trained", "bilingual", "clustered", "multilingual", "three_languages"]
