"""The losses as the contract describes them: per-image sums, the pasted part, what is run and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.config import Precision, RoiAlign
from harness.data.sample import View
from harness.detector.ground_truth import padded
from methods.contract import LossKind, LossTable, Proposals, Scope
from tests.detector.small import SIZE, generator, small_engine, view


def keep_all(foreground: Tensor, present: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.arange(present.shape[1]).expand(len(present), -1), present


@pytest.mark.parametrize("proposals", list(Proposals))
def test_per_image_sums_are_those_of_each_image_alone(proposals: Proposals) -> None:
    """Nothing of one image leaks into another's sums, whatever is beside it, an image without instances included."""
    engine = small_engine()
    engine.module.sampler = keep_all
    engine.module.federated = None
    views = [view(0), view(1, instances=0), view(2, instances=7, pasted=3)]
    together = engine.losses(views, proposals, generator(), backbone_in_eval=True)
    for i, one in enumerate(views):
        alone = engine.losses([one], proposals, generator(), backbone_in_eval=True)
        assert set(alone.names()) == set(together.names())
        for name in together.names():
            for part in ("sum", "count", "pasted"):
                value, expected = getattr(together.losses[name], part), getattr(alone.losses[name], part)
                if value is not None:
                    torch.testing.assert_close(value[i : i + 1], expected, rtol=2e-4, atol=2e-4, msg=f"{name}.{part}")


def test_batch_losses_are_sums_over_counts() -> None:
    table = small_engine().losses([view(0), view(1)], Proposals.SAMPLED, generator())
    torch.testing.assert_close(table.per_image().sum(), table.total())
    for name, loss in table.losses.items():
        assert loss.sum.shape == loss.count.shape == (2,)
        assert loss.across_ranks == (loss.kind is LossKind.PROPOSAL)
        assert (loss.pasted is None) == (loss.kind is LossKind.PROPOSAL), name


def test_the_pasted_part_adds_up() -> None:
    """Labelling real and pasted the other way round gives the complement of the foreground's part."""
    engine = small_engine(stage_ious=[0.5])
    engine.module.sampler = keep_all
    real, pasted = view(3, instances=5, pasted=2), view(3, instances=5, pasted=2)
    pasted.targets.pasted = ~pasted.targets.pasted
    all_pasted = View(real.image, replace(real.targets, pasted=torch.ones_like(real.targets.pasted)))
    parts = [
        engine.losses([v], Proposals.SAMPLED, generator(), backbone_in_eval=True) for v in (real, pasted, all_pasted)
    ]
    for name in parts[0].names(LossKind.BOX, LossKind.MASK):
        first, second, whole = (table.losses[name] for table in parts)
        torch.testing.assert_close(first.pasted + second.pasted, whole.sum)  # type: ignore[operator]
    for name in parts[0].names(LossKind.CLASSIFICATION):
        first, second, whole = (table.losses[name].pasted for table in parts)
        assert first is not None
        assert second is not None
        assert whole is not None
        torch.testing.assert_close(first + second, whole)
        assert 0 < first.item() < whole.item() < parts[0].losses[name].sum.item()


def test_ground_truth_proposals_leave_the_proposal_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small_engine()
    monkeypatch.setattr(engine.module.proposal_network, "forward", None)
    views = [view(0), view(1)]
    table = engine.losses(views, Proposals.GROUND_TRUTH, generator())
    assert not table.names(LossKind.PROPOSAL)
    instances = torch.tensor([float(len(v.targets)) for v in views])
    torch.testing.assert_close(table.losses["loss_cls_stage0"].count.detach(), instances)
    # Every class counts: at the prior of 0.01 each of the 12 logits adds about log(1 / 0.99), the own one log(100).
    expected = 11 * -torch.log(torch.tensor(0.99)) - torch.log(torch.tensor(0.01))
    assert table.batch("loss_cls_stage0").item() == pytest.approx(expected.item(), rel=0.05)


def test_only_counted_classes_get_a_gradient() -> None:
    engine = small_engine(classes=30)
    counted = torch.zeros(30, dtype=torch.bool)
    counted[[3, 17]] = True
    engine.module.federated = lambda stage, appeared, rng: appeared[:-1] | counted
    one = view(0, classes=2)
    table = engine.losses([one], Proposals.SAMPLED, generator())
    weight = engine.module.cascade.box_predictor[0].cls_score.weight  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(table.batch("loss_cls_stage0"), [weight])  # type: ignore[list-item]
    moved = set(gradient.abs().sum(1).nonzero().squeeze(1).tolist())
    assert moved == {3, 17, *one.targets.labels.tolist()}


def test_batch_without_any_instance() -> None:
    engine = small_engine()
    for proposals in Proposals:
        table = engine.losses([view(0, instances=0), view(1, instances=0)], proposals, generator())
        total = table.total()
        total.backward()
        assert total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in engine.module.parameters())


@pytest.mark.parametrize("roi_align", list(RoiAlign))
def test_small_detector_learns_a_fixed_batch(roi_align: RoiAlign) -> None:
    engine = small_engine(roi_align=roi_align, precision=Precision.bf16, channels_last=True, autocast_heads=True)
    views = [view(seed) for seed in range(4)]
    optimizer = torch.optim.AdamW(engine.parameters(Scope.all), lr=3e-3)
    history: list[LossTable] = []
    for step in range(40):
        history.append(engine.losses(views, Proposals.SAMPLED, generator(step)))
        optimizer.zero_grad()
        history[-1].total().backward()
        torch.nn.utils.clip_grad_value_(engine.module.parameters(), 1.0)
        optimizer.step()

    def mean(kind: LossKind, tables: list[LossTable]) -> float:
        return sum(t.total(kind).item() for t in tables) / len(tables)

    assert mean(LossKind.PROPOSAL, history[-5:]) < 0.7 * mean(LossKind.PROPOSAL, history[:3])
    assert mean(LossKind.MASK, history[-5:]) < 0.97 * mean(LossKind.MASK, history[:3])
    assert history[-1].total().dtype == torch.float32


def test_double_precision() -> None:
    engine = small_engine()
    engine.module.double()
    table = engine.losses([view(0), view(1)], Proposals.SAMPLED, generator())
    assert all(loss.sum.dtype == torch.float64 for loss in table.losses.values())


def test_scopes() -> None:
    engine = small_engine()
    sizes = {scope: sum(p.numel() for p in engine.parameters(scope)) for scope in Scope}
    assert sizes[Scope.all] == sum(p.numel() for p in engine.module.parameters())
    assert sizes[Scope.last] == 2 * (64 + 1) * 13
    assert sizes[Scope.last] < sizes[Scope.heads] < sizes[Scope.all]


@pytest.mark.parametrize("backbone", ["resnet18", "swin_mini"])
def test_draws_follow_the_generator_alone(backbone: str) -> None:
    """Proposals, federated classes and stochastic depth."""
    engine = small_engine(classes=60, backbone=backbone)
    views = [view(seed, instances=6) for seed in range(2)]
    before = torch.get_rng_state()
    first = engine.losses(views, Proposals.SAMPLED, generator(5)).total().item()
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    assert engine.losses(views, Proposals.SAMPLED, generator(5)).total().item() == first
    assert engine.losses(views, Proposals.SAMPLED, generator(6)).total().item() != first


def test_stochastic_depth_is_off_for_a_backbone_in_evaluation() -> None:
    engine = small_engine(backbone="swin_mini")
    engine.module.backbone.layers[0].blocks[1].drop_path.drop_prob = 0.9  # type: ignore[union-attr, index]
    one = [view(0)]
    losses = [
        engine.losses(one, Proposals.GROUND_TRUTH, generator(seed), backbone_in_eval=in_eval).total().item()
        for in_eval in (True, False)
        for seed in range(4)
    ]
    assert len(set(losses[:4])) == 1
    assert len(set(losses[4:])) > 1


def test_backbone_in_eval_leaves_statistics_alone() -> None:
    engine = small_engine()
    before = {k: v.clone() for k, v in engine.module.state_dict().items() if "running" in k}
    engine.losses([view(0)], Proposals.GROUND_TRUTH, generator(), backbone_in_eval=True)
    assert all(torch.equal(engine.module.state_dict()[k], v) for k, v in before.items())
    engine.losses([view(0)], Proposals.GROUND_TRUTH, generator())
    assert not all(torch.equal(engine.module.state_dict()[k], v) for k, v in before.items())


def test_padded_truth_marks_what_is_there() -> None:
    truth = padded([view(0, instances=0).targets, view(1, instances=3).targets], [(SIZE, SIZE)] * 2, torch.float32)
    assert truth.present.sum(1).tolist() == truth.counts
    assert truth.boxes.shape[1] == max(truth.counts)


@pytest.mark.parametrize("changes", [{}, {"strides": [4, 8], "extra_levels": 1}])
def test_normalisers_that_ranks_share_are_known_without_a_pass(changes: dict[str, object]) -> None:
    """For a batch that is taken in parts; images of several sizes, one without instances."""
    engine = small_engine(**changes)
    views = [view(0), view(1, instances=0), view(2, instances=7, size=(70, 90))]
    table = engine.losses(views, Proposals.SAMPLED, generator())
    found = engine.shared_counts(views)
    assert set(found) == {name for name, loss in table.losses.items() if loss.across_ranks}
    for name, count in found.items():
        assert count == table.losses[name].count.sum() > 0
