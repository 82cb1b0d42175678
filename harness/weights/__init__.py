"""Reading and writing checkpoints of any naming."""
