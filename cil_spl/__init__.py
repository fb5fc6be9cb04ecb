"""Training spiking neural networks with a neuromorphic chip in the loop."""

__version__ = "0.1.0"
