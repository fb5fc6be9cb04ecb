"""Read by every Python that a test starts (see conftest.py)."""

import offline

offline.block()
