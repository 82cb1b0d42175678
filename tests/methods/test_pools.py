"""What the methods make of a pool, and what they draw from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from methods import filters
from methods.clip_filter import ClipFilter
from methods.conformance import check_method
from methods.conformance.tiny import TinyDataset, TinyPool, tiny_pool
from methods.contract import ImageFacts, PasteRule
from methods.copy_paste import CopyPaste, Source
from methods.coreset import Coreset, k_center
from methods.divergen import DiverGen, balanced_order
from methods.xpaste import DrawBy, XPaste


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def facts(index: int) -> ImageFacts:
    return ImageFacts(index, 64, 48, TinyDataset().categories_of(index))


# -------------------------------------------------------------------------------------------------------------- xpaste


def test_the_clip_rule_keeps_poor_categories_alive() -> None:
    pool = TinyPool(np.array([0, 0, 0, 1, 1, 1]), clip_score=np.array([25.0, 21.0, 20.9, 18.0, 17.0, 16.9]))
    # Category 0's best is 25, so 21 rules; category 1's best is 18, so 17 rules.
    assert filters.clip_at_least(pool, 21, 1).tolist() == [True, True, False, True, True, False]


def test_of_several_masks_of_an_image_the_best_scored_one_stays() -> None:
    pool = TinyPool(
        np.array([0, 0, 0, 1]), path=np.array(["a", "a", "b", "a"]), clip_score=np.array([22.0, 24.0, np.nan, 20.0])
    )
    assert filters.highest_clip_mask(pool).tolist() == [False, True, True, True]


def test_xpaste_filters_by_what_the_pool_has() -> None:
    full = tiny_pool(20)
    kept = XPaste().prepare(full, TinyDataset(), rng())
    assert 0 < len(kept) < len(full)
    area = kept.column("area_fraction")
    assert area.min() >= 0.05
    assert area.max() <= 0.95
    assert len(np.unique(kept.column("path"))) == len(kept)


@pytest.mark.parametrize(("method", "column"), [(XPaste(), "clip_score and area_fraction"), (DiverGen(), "inter_sim")])
def test_a_filter_without_its_columns_says_so(method: XPaste, column: str, caplog: pytest.LogCaptureFixture) -> None:
    bare = TinyPool(tiny_pool(20).categories)
    assert len(method.prepare(bare, TinyDataset(), rng())) == len(bare)
    (record,) = caplog.records
    assert column in record.getMessage()
    assert "columns.csv" in record.getMessage()
    with pytest.raises(ValueError, match=column):
        replace(method, strict_filters=True).prepare(bare, TinyDataset(), rng())
    caplog.clear()
    method.prepare(tiny_pool(20), TinyDataset(), rng())
    assert not caplog.records


def test_groups_limit_the_pool() -> None:
    kept = XPaste(groups="r", filtered=False).prepare(tiny_pool(), TinyDataset(), rng())
    assert set(kept.categories) == {0, 5}


def test_draws_are_uniform_over_categories_whatever_their_size() -> None:
    pool = TinyPool(np.repeat([0, 3], [900, 100]))
    draws = [XPaste().draw(facts(0), pool, rng(seed)).rows for seed in range(3000)]
    lengths = np.array([len(rows) for rows in draws])
    assert lengths.min() == 0
    assert lengths.max() == 19
    assert abs(lengths.mean() - 9.5) < 0.35
    assert abs((pool.categories[np.concatenate(draws)] == 3).mean() - 0.5) < 0.02
    uniform = [XPaste(draw_by=DrawBy.instance).draw(facts(0), pool, rng(seed)).rows for seed in range(1000)]
    assert abs((pool.categories[np.concatenate(uniform)] == 3).mean() - 0.1) < 0.02
    single = [XPaste(draw_by=DrawBy.single_category).draw(facts(0), pool, rng(seed)).rows for seed in range(50)]
    assert all(len(np.unique(pool.categories[rows])) <= 1 for rows in single)


# --------------------------------------------------------------------------------------------------------- clip_filter


def test_clip_filter_keeps_the_top_share_of_each_category() -> None:
    pool = TinyPool(np.repeat([0, 1, 2], [10, 4, 1]), clip_score=np.arange(15.0))
    kept = ClipFilter(share=0.3).prepare(pool, TinyDataset(), rng())
    assert kept.column("clip_score").tolist() == [7, 8, 9, 12, 13, 14]
    with pytest.raises(ValueError, match="clip_score"):
        ClipFilter().prepare(TinyPool(np.zeros(3, int)), TinyDataset(), rng())


def test_clip_filter_reads_a_scored_list(tmp_path: Path) -> None:
    pool = TinyPool(np.array([0, 0, 0, 1]), path=np.array(["a", "b", "c", "a"]))
    listing = tmp_path / "ranking.csv"
    listing.write_text("rank,category,path,score\n1,0,c,0.5\n2,0,a,0.1\n3,1,a,\n")
    method = ClipFilter(share=0.34, scores=str(listing))
    assert method.prepare(pool, TinyDataset(), rng()).column("path").tolist() == ["a", "c", "a"]  # 2 of 3, and 1 of 1
    assert method.files() == {"scores": listing}
    listing.write_text("rank,category,path\n")
    with pytest.raises(ValueError, match="has no column score"):
        method.prepare(pool, TinyDataset(), rng())


# ------------------------------------------------------------------------------------------------------------ divergen


def test_scaled_subsets_nest_and_are_balanced() -> None:
    categories = np.repeat(np.arange(5), [40, 10, 25, 3, 22])
    order = balanced_order(categories)
    assert sorted(order) == list(range(100))
    for scale in (7, 20, 60):
        counts = np.bincount(categories[order[:scale]], minlength=5)
        full = np.array([40, 10, 25, 3, 22])
        unexhausted = counts[counts < full]
        assert unexhausted.max() - unexhausted.min() <= 1  # nested by construction: beginnings of one order
    pools = [DiverGen(scale=scale).prepare(tiny_pool(10), TinyDataset(), rng(scale)) for scale in (6, 20)]
    assert set(pools[0].column("clip_score")) < set(pools[1].column("clip_score"))
    with pytest.raises(ValueError, match="after filtering"):
        DiverGen(scale=10_000).prepare(tiny_pool(), TinyDataset(), rng())


def test_diversity_switches() -> None:
    pool = tiny_pool(10)

    def prepared(**options: object) -> TinyPool:
        return DiverGen(**options).prepare(pool, TinyDataset(), rng())  # type: ignore[arg-type]

    assert set(prepared().categories) == {0, 1, 2, 3, 4, 5}
    assert 5 not in prepared(extra_categories=0).categories  # no training image holds it
    assert set(prepared(extra_categories=1).categories) == {0, 1, 2, 3, 4, 5}
    with pytest.raises(ValueError, match="extra_categories is 2, and the pool has 1"):
        prepared(extra_categories=2)
    for number in (1, 2):
        few = prepared(prompts=number)
        assert all(len(np.unique(few.column("prompt_id")[few.rows_of(c)])) == number for c in few.present_categories)
    assert set(prepared(generator="b").column("generator")) == {"b"}
    with pytest.raises(ValueError, match=r"'c'.*a, b"):
        prepared(generator="c")
    with pytest.raises(ValueError, match="prompt_id"):
        DiverGen(prompts=1).prepare(TinyPool(np.zeros(2, int)), TinyDataset(), rng())


def test_few_of_each_category_nest_and_are_even_over_prompts() -> None:
    pool = TinyPool(np.repeat(np.arange(4), 12), prompt_id=np.tile(np.repeat(np.arange(3), 4), 4))
    before: set[int] = set()
    for number in (3, 6, 7, 30):
        kept = XPaste(filtered=False, most_of_each=number).prepare(pool, TinyDataset(), rng())
        assert all(len(kept.rows_of(c)) == min(number, 12) for c in range(4))
        for category in range(4):
            counts = np.bincount(kept.column("prompt_id")[kept.rows_of(category)], minlength=3)
            assert counts.max() - counts.min() <= 1
        rows = set(np.flatnonzero(filters.few_of_each(pool.categories, pool.column("prompt_id"), number)).tolist())
        assert before <= rows
        before = rows


def test_inter_similarity_from_a_column_and_from_embeddings(tmp_path: Path) -> None:
    pool = tiny_pool(10)
    assert DiverGen().prepare(pool, TinyDataset(), rng()).column("inter_similarity").min() >= 0.6
    real = rng(1).normal(size=(12, 8))
    real_categories = np.repeat(np.arange(4), 3)  # 4 and 5 have no real instance: their rows pass
    own = rng(2).normal(size=(len(pool), 8)) + 2 * real[np.minimum(pool.categories, 3) * 3]
    np.savez(tmp_path / "e.npz", pool=own, real=real, real_categories=real_categories)
    method = DiverGen(embeddings=str(tmp_path / "e.npz"), similarity=0.3)
    kept = method.prepare(pool, TinyDataset(), rng())

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    by_hand = [
        c > 3 or np.mean([cosine(own[row], r) for r in real[real_categories == c]]) >= 0.3
        for row, c in enumerate(pool.categories)
    ]
    assert 0 < sum(by_hand) < len(pool)
    assert kept.column("clip_score").tolist() == pool.column("clip_score")[by_hand].tolist()
    with pytest.raises(ValueError, match="the pool has 6"):
        method.prepare(tiny_pool(1), TinyDataset(), rng())


# ---------------------------------------------------------------------------------------------------------- copy_paste


def test_copy_paste_takes_one_uniform_image_as_it_lies() -> None:
    """All instances of it, of which the harness takes a number that depends on what its view shows."""
    method = CopyPaste()
    pool = method.prepare(tiny_pool(), TinyDataset(), rng())
    of_image = pool.column("image")
    seen = []
    for seed in range(2000):
        draw = method.draw(facts(seed % 24), pool, rng(seed))
        (image,) = set(of_image[draw.rows])
        assert draw.rows.tolist() == np.flatnonzero(of_image == image).tolist()
        assert draw.rule_of(0) is PasteRule.AS_IT_LIES
        assert draw.at_most == 99
        seen.append(image)
    shares = np.unique(seen, return_counts=True)[1] / len(seen)
    assert len(shares) == len(np.unique(of_image))
    assert np.abs(shares * len(shares) - 1).max() < 0.4
    with pytest.raises(ValueError, match="max_real belongs to source=train or both"):
        CopyPaste(source=Source.pool, max_real=3).validate()


def test_both_sources_are_told_apart() -> None:
    method = CopyPaste(source=Source.both)
    pool = method.prepare(tiny_pool(), TinyDataset(), rng())
    generated = 0
    for seed in range(100):
        draw = method.draw(facts(seed % 24), pool, rng(seed))
        for place, row in enumerate(draw.rows):
            real = pool.column("image")[row] >= 0
            assert draw.rule_of(place) is (PasteRule.AS_IT_LIES if real else PasteRule.AREA)
            generated += not real
        assert draw.rule_of(len(draw.rows) - 1) is PasteRule.AS_IT_LIES  # on top
    assert generated > 500
    assert len(CopyPaste(source=Source.pool).prepare(tiny_pool(), TinyDataset(), rng())) == len(tiny_pool())


# ------------------------------------------------------------------------------------------------------------- coreset


def test_k_center_begins_in_the_middle_and_takes_what_lies_farthest() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0], [9.5, 0.0], [1.0, 0.0]], np.float32)  # the mean is 4.1
    # From 1: 9.5 lies farthest, then 0 (distance 1 against 0.5), then 9; the copy of the first comes last.
    assert k_center(points, 5).tolist() == [1, 3, 0, 2, 4]
    spread, lot = np.random.default_rng(0).normal(size=(60, 8)), np.arange(12)

    def radius(centers: np.ndarray) -> float:
        return float(np.linalg.norm(spread[:, None] - spread[centers], axis=2).min(1).max())

    assert radius(k_center(spread, 12)) < radius(lot)


def test_a_coreset_takes_a_share_of_each_category(tmp_path: Path) -> None:
    pool = tiny_pool()  # five instances a category
    features = np.random.default_rng(0).normal(size=(len(pool), 4)).astype(np.float16)
    features[pool.rows_of(0)[0]] = np.nan
    np.save(tmp_path / "features.npy", features)
    method = Coreset(share=0.25, embeddings=str(tmp_path / "features.npy"))
    report = check_method(method, processes=False)
    assert report.cost == {"forward": 1.0, "backward": 1.0}
    kept = method.prepare(pool, TinyDataset(), rng())
    assert np.bincount(kept.categories).tolist() == [1] + [2] * (len(pool.present_categories) - 1)
    assert len(replace(method, share=1.0).prepare(pool, TinyDataset(), rng())) == len(pool) - 1
    control = replace(method, embeddings=None)
    lot = [control.prepare(pool, TinyDataset(), rng(seed)).column("path") for seed in (0, 0, 1)]
    assert lot[0].tolist() == lot[1].tolist() != lot[2].tolist()


def test_scores_of_another_pool_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("category,path,score\n0,of_another.png,1.0\n")
    with pytest.raises(ValueError, match="lists none of the pool's instances"):
        filters.listed_scores(tmp_path / "scores.csv", tiny_pool(8))
