"""Layer lists by name, for ``model.preset``; ``model.layers`` overrides them."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, list[dict[str, Any]]] = {
    # The four layers of the vendor's N-MNIST walk-through.
    "quickstart": [
        {"conv": 8, "kernel": 3, "padding": 1, "pool": 2},
        {"conv": 16, "kernel": 3, "padding": 1, "pool": 2},
        {"conv": 16, "kernel": 3, "stride": 2, "padding": 1},
        {"linear": "classes"},
    ],
    # Five convolutions and one linear layer, the form of the CIL-SPL paper, sized to fit nine cores.
    "scnn6": [
        {"conv": 16, "kernel": 3, "padding": 1, "pool": 2},
        {"conv": 32, "kernel": 3, "padding": 1},
        {"conv": 32, "kernel": 3, "padding": 1, "pool": 2},
        {"conv": 32, "kernel": 3, "padding": 1},
        {"conv": 32, "kernel": 3, "padding": 1, "pool": 2},
        {"linear": "classes"},
    ],
}
