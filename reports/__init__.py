"""Records made into tables, figures and pages."""
