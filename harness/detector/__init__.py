"""CenterNet2, the papers' detector."""
