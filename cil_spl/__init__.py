"""Training spiking neural networks with a neuromorphic chip in the loop."""

from cil_spl.base import process

__version__ = "0.1.0"

process.before_torch()
