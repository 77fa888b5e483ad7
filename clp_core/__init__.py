"""CLP Workbench: carry a language model into a new language, and see where every number comes from."""

__version__ = "0.1.0"
