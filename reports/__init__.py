"""Turns records into tables, figures and pages."""
