"""BSGAL's decisions against autograd, finite differences and hand-made probing steps, on the kit's tiny detector."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.training.distributed import Ranks
from harness.training.step import StepPosition, TrainingStep
from methods.bsgal import (
    BSGAL,
    CachePrecision,
    CacheRule,
    Estimator,
    Mode,
    ReferenceDraws,
    ReferenceLoss,
    ReferenceProposals,
    Threshold,
)
from methods.bsgal_per_image import BSGALPerImage
from methods.conformance import check_method
from methods.conformance.tiny import TinyEngine
from methods.contract import LossKind, Method, Need, Proposals, Scope, Selection, ViewKind
from methods.loss_band import LossBand
from methods.random_selection import RandomSelection
from tests.methods.tiny_steps import STEPS, cosine, gradient, pasted_loss, reference_loss, started, step_at, steps

# ------------------------------------------------------------------------------------------------------ by gradient


@pytest.mark.parametrize("rule", list(CacheRule))
def test_contributions_are_cosines_with_the_cache(rule: CacheRule) -> None:
    method, engine = started(BSGAL(cache=rule)), TinyEngine()
    cache, seen = torch.zeros(step_at(0).num_parameters()), 0
    for iteration in range(STEPS):
        selection = method.select(step_at(iteration, engine))
        check = step_at(iteration, engine)
        g = gradient(engine, reference_loss(check))
        keep = 0.1 if rule is CacheRule.momentum else seen / (seen + 1)
        cache, seen = keep * cache + (1 - keep) * g, seen + 1
        assert float(selection.contribution) == pytest.approx(
            cosine(cache, gradient(engine, pasted_loss(check))), rel=1e-4
        )
        assert selection.decided
        assert selection.keep.tolist() == [bool(selection.contribution >= -0.05)] * 4


@pytest.mark.parametrize("scope", list(Scope))
def test_scopes_and_inner_products(scope: Scope) -> None:
    engine = TinyEngine()
    selection = started(BSGAL(scope=scope, normalise=False, momentum=0.0)).select(step_at(1, engine))
    check = step_at(1, engine)
    expected = gradient(engine, reference_loss(check), scope) @ gradient(engine, pasted_loss(check), scope)
    assert float(selection.contribution) == pytest.approx(float(expected), rel=1e-4)
    assert float(selection.threshold) == 0.0


@pytest.mark.parametrize("loss", list(ReferenceLoss))
def test_reference_losses(loss: ReferenceLoss) -> None:
    engine = TinyEngine()
    selection = started(BSGAL(reference_loss=loss, momentum=0.0)).select(step_at(1, engine))
    check = step_at(1, engine)
    table = check.losses(ViewKind.REFERENCE, Proposals.GROUND_TRUTH, backbone_in_eval=True, grad=True)
    expected = {
        "classification": lambda: table.batch("cls_stage0") + table.batch("cls_stage1"),
        "first_stage": lambda: table.batch("cls_stage0"),
        "box": lambda: table.batch("box"),
        "mask": lambda: table.batch("mask"),
        "all": lambda: table.total(),
    }[loss.name]()
    figure = cosine(gradient(engine, expected), gradient(engine, pasted_loss(check)))
    assert float(selection.contribution) == pytest.approx(figure, rel=1e-3, abs=1e-6)


def test_percentiles_are_of_the_contributions_before() -> None:
    number = 40
    method = started(BSGAL(threshold=Threshold.scheduled_percentile, accept_rate=0.2, accept_rate_end=0.8, window=16))
    seen: list[float] = []
    for step in steps(number):
        selection = method.select(step)
        rate = 0.2 + 0.6 * step.iteration / number
        expected = np.percentile(seen[-16:], 100 * (1 - rate)) if seen else 0.0
        assert float(selection.threshold) == pytest.approx(expected, abs=1e-6)
        assert bool(selection.keep[0]) == (float(selection.contribution) >= float(selection.threshold))
        seen.append(float(selection.contribution))
    fixed = started(BSGAL(threshold=Threshold.percentile, accept_rate=0.3))
    thresholds = [float(fixed.select(step).threshold) for step in steps(10)]
    assert thresholds[9] == pytest.approx(np.percentile(seen[:9], 70), abs=1e-6)


def test_the_reference_gradient_is_taken_as_often_as_asked() -> None:
    engine = TinyEngine()
    method = started(BSGAL(reference_every=3, momentum=0.0))
    norms = []
    for iteration in range(6):
        before = engine.passes
        step = step_at(iteration, engine)
        method.select(step)
        norms.append(engine.passes - before)
    assert norms == [2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize("loss", [ReferenceLoss.classification, ReferenceLoss.box])
def test_paste_or_ori_compares_the_views_and_hands_over_the_gradient(loss: ReferenceLoss) -> None:
    method = started(BSGAL(mode=Mode.paste_or_ori, reference_loss=loss))
    cache = torch.zeros(step_at(0).num_parameters())
    for iteration in range(4):
        engine = TinyEngine(iteration)
        step = step_at(iteration, engine)
        selection = method.select(step)
        check = step_at(iteration, engine)
        table = check.losses(ViewKind.REFERENCE, Proposals.GROUND_TRUTH, backbone_in_eval=True, grad=True)
        cache = 0.1 * cache + 0.9 * gradient(engine, table.total(LossKind[loss.name.upper()]))
        views = [
            gradient(engine, check.losses(view, grad=True).total()) for view in (ViewKind.AUGMENTED, ViewKind.ORIGINAL)
        ]
        assert float(selection.contribution) == pytest.approx(cosine(cache, views[0]), rel=1e-4)
        assert float(selection.threshold) == pytest.approx(cosine(cache, views[1]), rel=1e-4)
        assert bool(selection.keep.all()) == (loss is ReferenceLoss.box)  # pasting adds more box loss than others here
        trained = torch.stack(list(step.batch_losses(step.trained_table(selection)).values())).sum()
        assert selection.gradient is not None
        torch.testing.assert_close(selection.gradient, gradient(engine, trained), rtol=1e-4, atol=1e-6)
    assert started(BSGAL(mode=Mode.paste_or_ori, scope=Scope.heads)).select(step_at(0)).gradient is None


# ---------------------------------------------------------------------------------------------- by loss difference


def after_probe(step: TrainingStep, loss: Tensor, lr: float, proposals: Proposals) -> float:
    """The reference loss of a copied detector after a step of SGD."""
    engine = copy.deepcopy(step.engine)
    moved = gradient(step.engine, loss).split([p.numel() for p in step.engine.parameters(Scope.all)])
    with torch.no_grad():
        for parameter, part in zip(engine.parameters(Scope.all), moved, strict=True):
            parameter -= lr * part.view_as(parameter)
    other = TrainingStep(engine, step.batch, StepPosition(0, step.iteration, STEPS), Ranks())
    return float(reference_loss(other, proposals).detach())


@pytest.mark.parametrize("proposals", [ReferenceProposals.as_published, ReferenceProposals.ground_truth])
def test_the_loss_difference_is_that_of_a_probing_step(proposals: ReferenceProposals) -> None:
    taken = Proposals.SAMPLED if proposals is ReferenceProposals.as_published else Proposals.GROUND_TRUTH
    options = {"estimator": Estimator.loss_difference, "probe_lr": 0.05, "reference_proposals": proposals}
    for iteration in range(4):
        step = step_at(iteration)
        kept = [p.clone() for p in step.engine.parameters(Scope.all)]
        both = started(BSGAL(mode=Mode.paste_or_ori, **options)).select(step)
        assert all(torch.equal(a, b) for a, b in zip(kept, step.engine.parameters(Scope.all), strict=True))
        check = step_at(iteration)
        original = after_probe(check, check.losses(ViewKind.ORIGINAL, grad=True).total(), 0.05, taken)
        augmented = after_probe(check, check.losses(ViewKind.AUGMENTED, grad=True).total(), 0.05, taken)
        assert float(both.contribution) == pytest.approx(original - augmented, rel=1e-3, abs=1e-6)
        assert float(step.logged["reference_loss/after_original"]) == pytest.approx(original, rel=1e-5)
        assert bool(both.keep.all()) == (augmented < original)
        alone = started(BSGAL(**options)).select(step_at(iteration))
        drop = float(reference_loss(check, taken).detach()) - after_probe(check, pasted_loss(check), 0.05, taken)
        assert float(alone.contribution) == pytest.approx(drop, rel=1e-3, abs=2e-6)


@pytest.mark.parametrize("draws", ReferenceDraws)
def test_reference_passes_draw_alike_or_each_for_itself(draws: ReferenceDraws, monkeypatch: pytest.MonkeyPatch) -> None:
    step, seeds = step_at(1), []
    plain = step.engine.losses

    def seen(views, proposals, rng, **options):
        seeds.append(rng.initial_seed())
        return plain(views, proposals, rng, **options)

    monkeypatch.setattr(step.engine, "losses", seen)
    method = BSGAL(mode=Mode.paste_or_ori, estimator=Estimator.loss_difference, reference_draws=draws)
    started(method).select(step)
    original, first, augmented, second = seeds
    assert original != augmented
    assert (first == second) is (draws is ReferenceDraws.paired)
    with pytest.raises(ValueError, match="reference_draws belongs to estimator=loss_difference"):
        BSGAL(reference_draws=ReferenceDraws.independent).validate()


def test_a_pass_that_is_not_trained_on_draws_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    step, seeds = step_at(1), []
    plain = step.engine.losses

    def seen(views, proposals, rng, **options):
        seeds.append(rng.initial_seed())
        return plain(views, proposals, rng, **options)

    monkeypatch.setattr(step.engine, "losses", seen)
    step.losses(ViewKind.AUGMENTED, backbone_in_eval=True, grad=True)
    step.losses(ViewKind.AUGMENTED, grad=True)
    assert len(set(seeds)) == 2


def test_the_gradient_estimates_the_loss_difference() -> None:
    """In double precision, unnormalised, with the step's own reference gradient: Pearson's r over 50 batches."""
    engine, lr = TinyEngine(dtype=torch.float64), 1e-4
    estimated, measured = [], []
    for iteration in range(50):
        by_gradient = BSGAL(normalise=False, momentum=0.0, cache_precision=CachePrecision.fp64)
        by_difference = BSGAL(
            estimator=Estimator.loss_difference, probe_lr=lr, reference_proposals=ReferenceProposals.ground_truth
        )
        estimated.append(float(started(by_gradient).select(step_at(iteration, engine)).contribution))
        measured.append(float(started(by_difference).select(step_at(iteration, engine)).contribution) / lr)
    assert np.corrcoef(estimated, measured)[0, 1] >= 0.99
    np.testing.assert_allclose(estimated, measured, rtol=0.01, atol=1e-4)


# --------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": Mode.paste_or_ori, "threshold": Threshold.percentile}, "no percentile"),
        ({"mode": Mode.paste_or_ori, "tau": 0.0}, "no tau"),
        ({"threshold": Threshold.percentile, "tau": 0.0}, "tau belongs to threshold=fixed"),
        ({"estimator": Estimator.loss_difference, "scope": Scope.heads}, "scope belongs to"),
        ({"estimator": Estimator.loss_difference, "normalise": False}, "normalise belongs to"),
        ({"estimator": Estimator.loss_difference, "reference_every": 2}, "reference_every belongs to"),
        ({"estimator": Estimator.loss_difference, "momentum": 0.5}, "momentum belongs to"),
        ({"cache": CacheRule.average, "momentum": 0.5}, "momentum belongs to.*cache=momentum"),
        ({"accept_rate": 0.3}, "accept_rate belongs to threshold=percentile"),
        ({"window": 10}, "window belongs to threshold=percentile"),
        ({"threshold": Threshold.percentile, "accept_rate_end": 0.3}, "accept_rate_end belongs to"),
        ({"threshold": Threshold.scheduled_percentile}, "moves from 0.5 to itself"),
        ({"mode": Mode.paste_or_ori, "accept_rate": 0.3}, "accept_rate belongs to"),
        ({"probe_lr": 0.1}, "probe_lr belongs to estimator=loss_difference"),
        ({"estimator": Estimator.loss_difference, "probe_lr": float("nan")}, "probe_lr is nan"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"clip_below_best": -1.0}, "clip_below_best"),
        ({"clip_threshold": 25.0}, "clip_threshold belongs to filtered=true"),
        ({"momentum": 1.0}, "momentum"),
        ({"accept_rate": 1.5}, "accept_rate"),
        ({"window": 0}, "window"),
        ({"reference_every": 0}, "reference_every"),
        ({"probe_lr": 0.0}, "probe_lr"),
        ({"max_samples": 0}, "max_samples"),
    ],
)
def test_combinations_without_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BSGAL(**options).validate()  # type: ignore[arg-type]


def test_needs_follow_the_options() -> None:
    ground_truth, attribution = Need.GROUND_TRUTH_PROPOSALS, Need.PASTED_ATTRIBUTION
    assert BSGAL().required() == {ground_truth, attribution}
    assert BSGAL(mode=Mode.paste_or_ori).required() == {ground_truth}
    assert BSGAL(mode=Mode.paste_or_ori, reference_proposals=ReferenceProposals.sampled).required() == set()
    assert BSGAL(mode=Mode.paste_or_ori, estimator=Estimator.loss_difference).required() == set()
    assert BSGAL(estimator=Estimator.loss_difference).required() == {attribution}


@pytest.mark.parametrize(("precision", "apart"), [(CachePrecision.bf16, 0.01), (CachePrecision.fp64, 1e-6)])
def test_a_cache_in_another_precision_decides_nearly_alike(precision: CachePrecision, apart: float) -> None:
    usual, other = started(BSGAL()), started(BSGAL(cache_precision=precision))
    pairs = [
        (float(usual.select(a).contribution), float(other.select(b).contribution))
        for a, b in zip(steps(), steps(), strict=True)
    ]
    np.testing.assert_allclose(*zip(*pairs, strict=True), atol=apart)


@pytest.mark.parametrize(
    "method",
    [
        BSGAL(mode=Mode.paste_or_ori),
        BSGAL(mode=Mode.paste_or_ori, estimator=Estimator.loss_difference),
        BSGAL(estimator=Estimator.loss_difference),
        BSGAL(threshold=Threshold.percentile, cache=CacheRule.average, cache_precision=CachePrecision.bf16),
        BSGAL(reference_every=2, scope=Scope.last, shared_pass=False),
    ],
    ids=["paste_or_ori", "loss_difference", "paste_only_difference", "percentile_average_bf16", "every_2_last"],
)
def test_other_settings_conform(method: BSGAL) -> None:
    check_method(method, processes=False)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(Mode))
def test_synchronised_ranks_conform(mode: Mode) -> None:
    check_method(BSGAL(sync=True, mode=mode))


# --------------------------------------------------------------------------------------------------- beyond the papers


def test_per_image_contributions_add_up_to_the_batch_s() -> None:
    options = {"scope": Scope.heads, "normalise": False, "momentum": 0.0}
    whole = started(BSGAL(**options)).select(step_at(1))  # type: ignore[arg-type]
    apart = started(BSGALPerImage(**options)).select(step_at(1))  # type: ignore[arg-type]
    assert float(apart.contribution.nansum()) == pytest.approx(float(whole.contribution), rel=1e-4)
    assert apart.contribution.isnan().tolist() == [False, True, False, True]


def test_a_mixed_decision_trains_on_both_passes() -> None:
    engine = TinyEngine()
    step = step_at(1, engine, pasted=(0, 1, 2, 3))
    probe = started(BSGALPerImage(normalise=False)).select(step).contribution
    method = started(BSGALPerImage(normalise=False, tau=float(probe.median())))
    engine.passes = 0
    step = step_at(1, engine, pasted=(0, 1, 2, 3))
    selection = method.select(step)
    assert 0 < int(selection.keep.sum()) < 4
    table = step.trained_table(selection)
    assert engine.passes == 3  # reference, augmented, original
    augmented, original = step.losses(ViewKind.AUGMENTED, grad=True), step.losses(ViewKind.ORIGINAL, grad=True)
    assert engine.passes == 3
    expected = torch.where(selection.keep, augmented.losses["box"].sum, original.losses["box"].sum)
    torch.testing.assert_close(table.losses["box"].sum, expected)


def test_the_loss_band_keeps_the_middle() -> None:
    method = started(LossBand(low=0.25, high=0.75, warm_up=10, window=40))
    seen: list[float] = []
    decided = []
    for step in steps(60):
        selection = method.select(step)
        if selection.decided:
            low, high = np.quantile(seen[-40:], [0.25, 0.75])
            assert bool(selection.keep[0]) == (low <= float(selection.contribution) <= high)
            decided.append(bool(selection.keep[0]))
        seen.append(float(selection.contribution))
    assert len(decided) == 50
    assert 0.25 < np.mean(decided) < 0.75


def test_random_selection_takes_the_rate_of_the_run_it_needs() -> None:
    record = {"run_id": "bsgal-1", "statistics": {"acceptance_rate": 0.8}}
    matched = started(RandomSelection(rate=0.1), (record,))

    def kept(method: Method) -> float:
        return float(np.mean([bool(method.select(step).keep[0]) for step in steps(200)]))

    assert abs(kept(matched) - 0.8) < 0.08
    assert abs(kept(started(RandomSelection(rate=0.1))) - 0.1) < 0.06
    with pytest.raises(ValueError, match="bsgal-2 holds none"):
        started(RandomSelection(), ({"run_id": "bsgal-2", "statistics": {}},))
    apart = started(RandomSelection(per_image=True)).select(step_at(0, pasted=(0, 1, 2, 3)))
    assert isinstance(apart, Selection)


def test_instances_of_one_configuration_share_nothing() -> None:
    first = started(BSGAL())
    first.select(step_at(0))
    assert "_gradients" not in vars(dataclasses.replace(first))
