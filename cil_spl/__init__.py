"""Training spiking neural networks with a neuromorphic chip in the loop."""

import os

__version__ = "0.1.0"

# torch's worker threads otherwise spin between two of its operations, on the cores that the simulator and the fused
# neurons then want. Has to stand before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
