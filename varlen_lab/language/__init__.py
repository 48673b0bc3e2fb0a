"""The words that readers of lessons, figures and pages meet, in their language."""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.language.saying import LANGUAGES as LANGUAGES
    from varlen_lab.language.saying import capital as capital
    from varlen_lab.language.saying import counted as counted
    from varlen_lab.language.saying import listed as listed
    from varlen_lab.language.saying import phrase as phrase
    from varlen_lab.language.saying import say as say
    from varlen_lab.language.saying import speak as speak
    from varlen_lab.language.saying import speaking as speaking
    from varlen_lab.language.saying import spoken as spoken
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
