"""The version, alone in a file: setup.py reads it without importing torch."""

__version__ = "0.1.0"
