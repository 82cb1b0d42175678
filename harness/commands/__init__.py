"""What only the command line needs, a file a command."""
