"""The version of this program. It has its own file so that no module needs to import the package root."""

__version__ = "0.1.0"
