"""Training spiking neural networks with a neuromorphic chip in the loop."""

from cil_spl.base import process
from cil_spl.base.version import __version__ as __version__

process.before_torch()
