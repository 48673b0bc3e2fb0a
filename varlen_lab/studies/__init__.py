"""Experiments on whole runs and whole tables: three losses, the page's support table, the census."""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.studies.comparison import compare as compare
    from varlen_lab.studies.kept import KeptCensus as KeptCensus
    from varlen_lab.studies.kept import read_census as read_census
    from varlen_lab.studies.kept import verdict_words as verdict_words
    from varlen_lab.studies.one_class import verdicts_of as verdicts_of
    from varlen_lab.studies.support import FamilySupport as FamilySupport
    from varlen_lab.studies.support import Support as Support
    from varlen_lab.studies.support import by_family as by_family
    from varlen_lab.studies.support import measure as measure
    from varlen_lab.studies.support import measure_all as measure_all
    from varlen_lab.studies.verdict import Comparison as Comparison
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
