"""KA2L: find out what your language model does not know, and teach it just that."""

__version__ = "0.1.0"
