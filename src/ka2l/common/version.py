"""The version of KA2L, in a file of its own so that no module needs to import the package root."""

__version__ = "0.1.0"
