"""Experiments on whole runs and whole tables: three losses, and the support table of the page."""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.studies.comparison import compare as compare
    from varlen_lab.studies.support import Support as Support
    from varlen_lab.studies.support import measure as measure
    from varlen_lab.studies.support import measure_all as measure_all
    from varlen_lab.studies.verdict import Comparison as Comparison
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
