"""The methods under comparison: the contract, the registry, and one file per method."""

from methods.registry import find, load_file, name_of, names, register, source_fingerprint

__all__ = ["find", "load_file", "name_of", "names", "register", "source_fingerprint"]
