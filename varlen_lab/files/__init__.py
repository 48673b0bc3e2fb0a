"""What is kept on disk: written whole or not at all, and found again."""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.files.writing import cache_dir as cache_dir
    from varlen_lab.files.writing import cached_text as cached_text
    from varlen_lab.files.writing import fingerprint as fingerprint
    from varlen_lab.files.writing import folder_written_whole as folder_written_whole
    from varlen_lab.files.writing import keep_in_cache as keep_in_cache
    from varlen_lab.files.writing import written_whole as written_whole
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
