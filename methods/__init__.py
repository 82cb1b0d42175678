"""The registry of methods: built in, from entry points, from files."""

from methods.registry import build_config, find, names, register

__all__ = ["build_config", "find", "names", "register"]
