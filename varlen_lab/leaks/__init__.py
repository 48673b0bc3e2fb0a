"""Does packing change what a model computes? The audit, its parts, and the masks a live model really uses."""

from typing import TYPE_CHECKING

from varlen_lab import lazy_face

if TYPE_CHECKING:
    from varlen_lab.leaks.before import check_before_training as check_before_training
    from varlen_lab.leaks.callback import LeakCheck as LeakCheck
    from varlen_lab.leaks.checking import audit as audit
    from varlen_lab.leaks.isolating import isolate as isolate
    from varlen_lab.leaks.planted_trainers import plant_in_trainer as plant_in_trainer
    from varlen_lab.leaks.planting import plant as plant
    from varlen_lab.leaks.planting import planted as planted
    from varlen_lab.leaks.planting import specimen as specimen
    from varlen_lab.leaks.registry import FAULTS as FAULTS
    from varlen_lab.leaks.registry import Fault as Fault
    from varlen_lab.leaks.report import AuditReport as AuditReport
    from varlen_lab.leaks.report import Finding as Finding
    from varlen_lab.leaks.seen import Seen as Seen
    from varlen_lab.leaks.seen import attention_seen as attention_seen
    from varlen_lab.leaks.suited import applies as applies
    from varlen_lab.leaks.traps import preflight as preflight
else:
    __getattr__, __dir__, __all__ = lazy_face(__name__)
