"""Offline stages: scores and features of a pool by a frozen detector.

A stage is a run that trains nothing, and leaves a file for others.
"""
