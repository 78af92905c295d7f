"""The package's version, where the build and every room find it."""

__version__ = "0.1.0"
