"""The lessons: finding and running them, their pages, and the checks of their exercises."""

from varlen_lab import lazy_face

__getattr__, __dir__, __all__ = lazy_face(
    __name__,
    {
        "exercises": [
            "Verdict",
            "check_config",
            "check_cu_seqlens",
            "check_fill",
            "check_labels",
            "check_mask",
            "check_position_ids",
            "check_step_loss",
            "check_window",
            "guess",
        ],
        "lessons": ["Lesson", "find_lesson", "find_lessons"],
        "notebooks": ["run_notebook", "walkthrough"],
    },
)
