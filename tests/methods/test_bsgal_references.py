"""Which real images BSGAL judges by, and what becomes of those that lost their instances."""

import dataclasses

import numpy as np
import pytest
import torch

from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.bsgal import BSGAL, EmptyReference, ReferencePolicy
from methods.conformance.tiny import TinyEngine, tiny_pool
from methods.conformance.world import tiny_batch
from methods.contract import Draw, ImageFacts, LossKind, Proposals, Start, ViewKind
from tests.methods.tiny_steps import DATASET, cosine, gradient, pasted_loss, reference_loss, started, step_at


def drawn(categories: list[int], image: int = 3) -> Draw:
    facts = ImageFacts(image, 64, 64, DATASET.categories_of(image))
    rows, labels = np.arange(len(categories)), np.array(categories, np.int64)
    return Draw(rows=rows, categories=labels, image=facts, visible_categories=facts.categories[:1])


def chosen(policy: ReferencePolicy, draw: Draw, number: int = 200) -> list[int]:
    method = BSGAL(reference_policy=policy)
    picks = [method.reference(draw, DATASET, np.random.Generator(np.random.PCG64(seed))) for seed in range(number)]
    assert all(isinstance(pick, int) and 0 <= pick < DATASET.num_images for pick in picks)
    return picks  # type: ignore[return-value]


def test_reference_images_hold_a_drawn_class() -> None:
    assert set(chosen(ReferencePolicy.drawn_class, drawn([0]))) == {0}
    both = chosen(ReferencePolicy.drawn_class, drawn([0, 2]))
    assert 60 < sum(image == 0 for image in both) < 140
    assert all(image == 0 or 2 in DATASET.categories_of(image) for image in both)
    # A class counts once however often it was drawn: as published, a set of classes.
    assert 60 < sum(image == 0 for image in chosen(ReferencePolicy.drawn_class, drawn([0, 2, 2, 2, 2, 2]))) < 140


def test_without_a_draw_one_of_the_classes_that_the_view_shows_is_taken() -> None:
    visible = int(DATASET.categories_of(3)[0])
    assert all(visible in DATASET.categories_of(image) for image in chosen(ReferencePolicy.drawn_class, drawn([])))


def test_without_a_usable_class_one_of_all_classes_is_taken() -> None:
    nothing = dataclasses.replace(drawn([]), visible_categories=np.zeros(0, np.int64))
    for draw in (drawn([5]), nothing):  # no training image holds class 5
        picks = chosen(ReferencePolicy.drawn_class, draw, 400)
        assert 0.12 < np.mean([image == 0 for image in picks]) < 0.35  # image 0 alone holds class 0, one of five


def test_above_four_a_second_image_of_any_class_follows_all_first_ones() -> None:
    method = BSGAL(reference_images=8)
    pairs = [method.reference(drawn([2]), DATASET, np.random.Generator(np.random.PCG64(s))) for s in range(400)]
    assert [first for first, _ in pairs] == chosen(ReferencePolicy.drawn_class, drawn([2]), 400)
    assert 0.12 < np.mean([second == 0 for _, second in pairs]) < 0.35
    start = Start(total_iterations=10, device=torch.device("cpu"), images_per_rank=3, dataset=DATASET, pool=tiny_pool())
    with pytest.raises(ValueError, match="3 images a rank bring 6"):
        method.start(start)
    method.start(dataclasses.replace(start, images_per_rank=4))
    batch = tiny_batch(7)
    for sample in batch.samples:
        sample.references = (sample.original, sample.references[0])
    assert batch.reference == [*batch.original, *(sample.references[1] for sample in batch.samples)]
    assert TrainingStep(TinyEngine(), batch, StepPosition(0, 1, 10), Ranks()).num_references == 8


def test_random_policies() -> None:
    by_class = chosen(ReferencePolicy.random_class, drawn([1]), 400)
    assert 0.12 < np.mean([image == 0 for image in by_class]) < 0.35  # image 0 alone holds class 0, one of five
    by_image = chosen(ReferencePolicy.random_image, drawn([1]), 400)
    assert np.mean([image == 0 for image in by_image]) < 0.1


def test_the_number_of_reference_images_is_bounded() -> None:
    engine = TinyEngine()
    few = started(BSGAL(reference_images=2, momentum=0.0)).select(step_at(1, engine))
    check = step_at(1, engine, references=2)
    expected = cosine(gradient(engine, reference_loss(check)), gradient(engine, pasted_loss(check)))
    assert float(few.contribution) == pytest.approx(expected, rel=1e-4)


def with_emptied_reference(step: TrainingStep, image: int) -> TrainingStep:
    """The step with a reference image that lost all its instances, as training data hands it over."""
    (view,) = step.batch.samples[image].references
    assert view is not None
    step.batch.samples[image].references = (dataclasses.replace(view, targets=view.targets[torch.zeros(0).long()]),)
    return step


@pytest.mark.parametrize(
    ("images", "proposals"), [(4, Proposals.SAMPLED), (3, Proposals.SAMPLED), (2, Proposals.GROUND_TRUTH)]
)
def test_an_emptied_reference_image_stays_and_switches_the_proposals_as_published(
    images: int, proposals: Proposals
) -> None:
    engine = TinyEngine()
    method = started(BSGAL(empty_reference=EmptyReference.sampled, momentum=0.0, reference_images=images))
    assert method.keeps_emptied_references()
    selection = method.select(with_emptied_reference(step_at(1, engine), 2))
    check = with_emptied_reference(step_at(1, engine), 2)
    table = check.losses(ViewKind.REFERENCE, proposals, backbone_in_eval=True, images=images, grad=True)
    g = gradient(engine, table.total(LossKind.CLASSIFICATION))
    assert float(selection.contribution) == pytest.approx(cosine(g, gradient(engine, pasted_loss(check))), rel=1e-4)


def test_a_lost_reference_image_is_left_out_by_default() -> None:
    engine = TinyEngine()
    method = started(BSGAL(momentum=0.0))
    assert not method.keeps_emptied_references()
    selection = method.select(step_at(1, engine, references=3))
    check = step_at(1, engine, references=3)
    expected = cosine(gradient(engine, reference_loss(check)), gradient(engine, pasted_loss(check)))
    assert float(selection.contribution) == pytest.approx(expected, rel=1e-4)
