"""The lessons: finding and running them, their pages, and the checks of their exercises."""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.course.before_after import BeforeAfter as BeforeAfter
    from varlen_lab.course.before_after import answers_of as answers_of
    from varlen_lab.course.before_after import at_hand as at_hand
    from varlen_lab.course.before_after import hold_out as hold_out
    from varlen_lab.course.before_after import loss_alone as loss_alone
    from varlen_lab.course.before_after import saved_model as saved_model
    from varlen_lab.course.before_after import with_trained as with_trained
    from varlen_lab.course.clone import in_clone as in_clone
    from varlen_lab.course.first_steps import first_step_of_trainer as first_step_of_trainer
    from varlen_lab.course.first_steps import first_step_of_trl as first_step_of_trl
    from varlen_lab.course.heard import listening as listening
    from varlen_lab.course.kept_results import gpu_training as gpu_training
    from varlen_lab.course.kept_results import real_effect as real_effect
    from varlen_lab.course.lab.broken import Broken as Broken
    from varlen_lab.course.lab.broken import break_it as break_it
    from varlen_lab.course.lessons import Lesson as Lesson
    from varlen_lab.course.lessons import find_lesson as find_lesson
    from varlen_lab.course.lessons import find_lessons as find_lessons
    from varlen_lab.course.notebooks import run_notebook as run_notebook
    from varlen_lab.course.notebooks import walkthrough as walkthrough
    from varlen_lab.course.parameters import check_parameters as check_parameters
    from varlen_lab.course.puzzles.alarm import check_leaks as check_leaks
    from varlen_lab.course.puzzles.alarm import rings as rings
    from varlen_lab.course.puzzles.capstone import check_findings as check_findings
    from varlen_lab.course.puzzles.capstone import stranger_script as stranger_script
    from varlen_lab.course.puzzles.collator import check_collator as check_collator
    from varlen_lab.course.puzzles.config_files import check_read_name as check_read_name
    from varlen_lab.course.puzzles.config_files import check_read_settings as check_read_settings
    from varlen_lab.course.puzzles.dividing import check_one_division as check_one_division
    from varlen_lab.course.puzzles.dividing import check_steps as check_steps
    from varlen_lab.course.puzzles.fair_test import check_fair_test as check_fair_test
    from varlen_lab.course.puzzles.kernels import check_obeys as check_obeys
    from varlen_lab.course.puzzles.loop import check_loop as check_loop
    from varlen_lab.course.puzzles.loop import check_pairs as check_pairs
    from varlen_lab.course.puzzles.mending import certify as certify
    from varlen_lab.course.puzzles.mending import check_mended_collate as check_mended_collate
    from varlen_lab.course.puzzles.mending import check_mended_rest as check_mended_rest
    from varlen_lab.course.puzzles.mending import mended as mended
    from varlen_lab.course.puzzles.messages import check_to_messages as check_to_messages
    from varlen_lab.course.puzzles.packer import check_packer as check_packer
    from varlen_lab.course.puzzles.paired import check_paired as check_paired
    from varlen_lab.course.puzzles.parity import check_exact as check_exact
    from varlen_lab.course.puzzles.same_model import check_same_model as check_same_model
    from varlen_lab.course.puzzles.seams import check_cu_seqlens as check_cu_seqlens
    from varlen_lab.course.puzzles.states import check_document_wise as check_document_wise
    from varlen_lab.course.puzzles.targets import check_labels as check_labels
    from varlen_lab.course.puzzles.targets import check_position_ids as check_position_ids
    from varlen_lab.course.puzzles.work import check_attention_work as check_attention_work
    from varlen_lab.course.puzzles.work import check_share_out as check_share_out
    from varlen_lab.course.puzzles.work import check_speedup as check_speedup
    from varlen_lab.course.speaking import TeachingModel as TeachingModel
    from varlen_lab.course.speaking import teaching_model as teaching_model
    from varlen_lab.course.tables import Table as Table
    from varlen_lab.course.tables import table as table
    from varlen_lab.course.verdicts import Verdict as Verdict
    from varlen_lab.course.verdicts import guess as guess
    from varlen_lab.course.words import moved as moved
    from varlen_lab.course.words import next_word as next_word
    from varlen_lab.course.words import next_words as next_words
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
