"""Annotations, images, instance pools, pasting, batches."""
