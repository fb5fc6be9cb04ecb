"""The version, which every run's record names."""

__version__ = "0.1.0"
