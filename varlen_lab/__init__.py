"""varlen_lab: see, prove and use variable-length attention.

The package exports its version and nothing else: import the module you need, for example
``from varlen_lab.packing import Boundaries`` or ``from varlen_lab.attention import attend``.
"""

__version__ = "0.1.0"
