"""What only the command line needs, one file per command."""
