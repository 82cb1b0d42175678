"""Offline stages: what a run does that trains nothing, but works through a pool and leaves a file for other runs."""
