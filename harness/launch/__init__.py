"""Sweeps: expanding, submitting, following and resuming them."""
