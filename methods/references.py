"""The choice of training images for a reference batch."""

from __future__ import annotations

import numpy as np

from methods.contract import DatasetFacts, Draw


def of_drawn_class(draw: Draw, dataset: DatasetFacts, rng: np.random.Generator) -> int:
    """A uniform image of a uniform drawn class, or of a class that the view shows if nothing was drawn.

    A class counts as drawn even if its instance was discarded later. Source: BSGAL (2406.02435).
    """
    classes = np.unique(draw.categories) if len(draw.categories) else draw.visible_categories
    images = dataset.images_of(int(rng.choice(classes))) if len(classes) else classes
    if len(images):  # none for a category that has generated instances alone
        return int(rng.choice(images))
    return of_any_class(dataset, rng)


def of_any_class(dataset: DatasetFacts, rng: np.random.Generator) -> int:
    """A uniform image of a uniform class, among those that training images hold."""
    while True:
        images = dataset.images_of(int(rng.integers(dataset.num_categories)))
        if len(images):
            return int(rng.choice(images))


def any_image(dataset: DatasetFacts, rng: np.random.Generator) -> int:
    """A uniform training image that holds an instance."""
    while True:
        image = int(rng.integers(dataset.num_images))
        if len(dataset.categories_of(image)):
            return image
