"""The scale rule, what is rejected, reading of instances with every fault, and where instances are put."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from harness.compose import compose
from harness.config import Blending, DataConfig, PasteConfig
from harness.data.images import TrainingImages
from harness.data.lvis.annotations import rasterise
from harness.data.lvis.parse import read_json
from harness.data.paste.area_statistics import AreaStatistics, area_statistics, statistics_file
from harness.data.paste.cutout import Fault, FaultyInstance, annotated_cutout, isolate, read_rgba
from harness.data.paste.paster import Paster, _blending, area_size, free_size
from harness.data.pool.pool import InstancePool, ListStore
from harness.data.pool.sources import AnnotationSource, FileSource
from harness.errors import UserError
from methods.contract import Draw, PasteRule

KNOWN = AreaStatistics(np.array([0.2, np.nan]), np.array([0.05, np.nan]))


def test_area_size_follows_the_rule() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([area_size((100, 50), (640, 480), 0.2, 0.05, rng) for _ in range(4000)])
    side = np.sqrt(sizes[:, 0] * sizes[:, 1] / (640 * 480))
    assert side.mean() == pytest.approx(0.2, abs=0.003)  # whole pixels cost up to half a pixel a side
    assert side.std() == pytest.approx(0.05, abs=0.003)
    aspect = sizes[:, 1] / sizes[:, 0]
    assert aspect.min() == pytest.approx(0.4, abs=0.02)
    assert aspect.max() == pytest.approx(0.6, abs=0.02)


def test_area_size_is_clipped_and_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = area_size((10, 10), (640, 640), 3.0, 0.0, rng)
        assert np.sqrt(height * width) / 640 == pytest.approx(0.5, abs=0.005)
        height, width = area_size((10, 10), (640, 640), 0.0, 0.0, rng)
        assert np.sqrt(height * width) == pytest.approx(10, abs=1)
    assert area_size((1000, 10), (640, 640), 0.0, 0.0, rng) is None  # a needle of 1 pixel
    assert area_size((10, 100), (640, 640), 3.0, 0.0, rng) is None  # wider than the view


def test_free_size_follows_the_rule() -> None:
    rng = np.random.default_rng(0)
    heights = np.array([free_size((1000, 500), (640, 640), rng)[0] for _ in range(2000)])
    assert heights.min() == pytest.approx(50, abs=2)
    assert heights.max() == pytest.approx(300, abs=2)
    assert free_size((20, 10), (640, 640), np.random.default_rng(1)) is None  # at most 3 pixels
    assert all(free_size((20000, 10), (640, 640), rng) is None for _ in range(20))


def write(path: Path, image: np.ndarray) -> str:
    assert cv2.imwrite(str(path), image)
    return str(path)


def test_only_the_largest_part_is_kept_and_its_holes_belong_to_it(tmp_path: Path) -> None:
    rgba = np.full((40, 60, 4), 200, np.uint8)
    rgba[..., 3] = 0
    rgba[5:25, 10:40, 3] = 255
    rgba[10:12, 20:22, 3] = 100  # below the threshold, inside
    rgba[30:35, 50:55, 3] = 255  # another part
    path = write(tmp_path / "a.png", rgba)
    cutout, share = isolate(read_rgba(FileSource(path)), path)
    assert cutout.corner == (10, 5)
    assert cutout.rgba.shape == (20, 30, 4)
    assert share == pytest.approx(600 / 2400)
    assert cutout.rgba[5, 10, 3] == 100
    assert (cutout.rgba[..., :3] == 200).all()


def test_every_kind_of_file_is_read_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (30, 40, 4), dtype=np.uint8)
    eight = write(tmp_path / "8.png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    sixteen = write(tmp_path / "16.png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA).astype(np.uint16) * 257)
    rgb = write(tmp_path / "rgb.png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGR))
    palette = tmp_path / "palette.png"
    Image.fromarray(rgba[..., :3]).quantize(256).save(palette)
    mask, deep = write(tmp_path / "mask.png", rgba[..., 3]), write(tmp_path / "deep.png", np.dstack([rgba[..., 3]] * 3))
    for source in (FileSource(eight), FileSource(sixteen), FileSource(rgb, mask), FileSource(eight, deep)):
        assert (read_rgba(source) == rgba).all(), source
    assert np.abs(read_rgba(FileSource(str(palette), mask))[..., :3].astype(int) - rgba[..., :3]).mean() < 40


def faulty(tmp_path: Path) -> dict[Fault, FileSource]:
    good = np.full((8, 8, 4), 255, np.uint8)
    (tmp_path / "text.png").write_text("no image")
    image, rgb = write(tmp_path / "image.png", good), write(tmp_path / "rgb.png", good[..., :3])
    other = write(tmp_path / "other.png", good[:4, :, 0])
    clear = write(tmp_path / "clear.png", good * np.array([1, 1, 1, 0], np.uint8))
    tiny = write(tmp_path / "tiny.png", good[:1, :1])
    return {
        Fault.missing: FileSource(str(tmp_path / "none.png")),
        Fault.undecodable: FileSource(str(tmp_path / "text.png")),
        Fault.no_alpha: FileSource(rgb),
        Fault.mask_missing: FileSource(image, str(tmp_path / "none.png")),
        Fault.mask_undecodable: FileSource(image, str(tmp_path / "text.png")),
        Fault.mask_size: FileSource(image, other),
        Fault.empty_mask: FileSource(clear),
        Fault.too_small: FileSource(tiny),
    }


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_is_told_apart(fault: Fault, tmp_path: Path) -> None:
    source = faulty(tmp_path)[fault]
    with pytest.raises(FaultyInstance) as error:
        isolate(read_rgba(source), source.path)
    assert error.value.fault is fault


def paster(sources: list[FileSource], category: int = 0, **paste: object) -> Paster:
    pool = InstancePool(ListStore(sources, np.full(len(sources), category)))
    config = DataConfig(name="", root="", paste=PasteConfig(**paste))
    return Paster(pool, None, KNOWN, config)  # type: ignore[arg-type]


def test_faulty_images_are_skipped_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources = list(faulty(tmp_path).values())
    image = np.zeros((64, 64, 3), np.uint8)
    draw = Draw(rows=np.arange(len(sources)), categories=np.zeros(len(sources), np.int64))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            pasted, shown, skipped = paster(sources).paste(image, [], draw, np.random.default_rng(0))
            assert pasted is image
            assert shown == []
            assert sum(skipped.values()) == len(sources)
    assert {name.split(":")[0] for name in skipped} == {fault.value for fault in Fault}
    files = [record.getMessage() for record in caplog.records]
    assert len(files) == len(set(files)) == 6  # files that the faults above share are named once


def blob(tmp_path: Path, share: float = 0.25, side: int = 64) -> FileSource:
    rgba = np.full((side, side, 4), 255, np.uint8)
    inner = int(side * np.sqrt(share))
    rgba[..., 3] = 0
    rgba[:inner, :inner, 3] = 255
    return FileSource(write(tmp_path / f"blob{share}.png", rgba))


def test_instances_that_hardly_show_or_fill_their_image_are_rejected(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    for share, category, pasted in ((0.25, 0, True), (0.009, 0, False), (1.0, 0, False), (1.0, 1, True)):
        done = paster([blob(tmp_path, share)], category)
        draw = Draw(rows=np.zeros(1, np.int64), categories=np.array([category]))
        _, shown, skipped = done.paste(image, [], draw, np.random.default_rng(0))
        assert bool(shown) is pasted, share
        assert not skipped


def test_a_mask_in_its_own_file_and_a_cut_out_file(tmp_path: Path) -> None:
    rgb = write(tmp_path / "rgb.png", np.full((64, 64, 3), (30, 20, 10), np.uint8))
    mask = np.zeros((64, 64), np.uint8)
    mask[8:40, 8:40] = 255
    done = paster([FileSource(rgb, write(tmp_path / "mask.png", mask))])
    draw = Draw(rows=np.zeros(1, np.int64), categories=np.zeros(1, np.int64))
    image, shown, _ = done.paste(np.zeros((64, 64, 3), np.uint8), [], draw, np.random.default_rng(0))
    (pasted,) = shown
    assert image[pasted.y, pasted.x].tolist() == [10, 20, 30]
    full = np.full((20, 20, 4), 255, np.uint8)  # fills its file, as one does that is cut to its instance
    done = paster([FileSource(write(tmp_path / "cut.png", full), isolated=True)])
    assert done.paste(np.zeros((64, 64, 3), np.uint8), [], draw, np.random.default_rng(0))[1]


@pytest.mark.parametrize("blending", Blending)
def test_rotation_and_colour_keep_targets_true(tmp_path: Path, blending: Blending) -> None:
    done = paster([blob(tmp_path)], blending=blending, rotation=30.0, jitter=0.2)
    image = np.full((64, 64, 3), 90, np.uint8)
    draw = Draw(rows=np.zeros(6, np.int64), categories=np.zeros(6, np.int64))
    pasted, shown, _ = done.paste(image, [], draw, np.random.default_rng(5))
    again, _, _ = done.paste(image, [], draw, np.random.default_rng(5))
    assert (pasted == again).all()
    assert (image == 90).all()
    covered = np.zeros((64, 64), np.uint8)
    for instance in shown:
        x0, y0, x1, y1 = instance.extent
        covered[y0:y1, x0:x1] |= instance.mask
    if blending not in (Blending.gaussian, Blending.random):
        assert (pasted[covered == 0] == 90).all()


def test_random_blending_takes_every_kind_as_often() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(_blending(Blending.random, rng) for _ in range(3000))
    assert set(drawn) == {Blending.basic, Blending.alpha, Blending.gaussian}
    assert min(drawn.values()) > 900
    assert _blending(Blending.alpha, rng) is Blending.alpha


def test_centres_are_uniform_over_the_view(tmp_path: Path) -> None:
    done = paster([blob(tmp_path)])
    rng = np.random.default_rng(0)
    draw = Draw(rows=np.zeros(1, np.int64), categories=np.zeros(1, np.int64))
    corners = []
    for _ in range(600):
        placed = done._placed(0, draw, (200, 100), rng)
        assert placed is not None
        rgba, (x, y), _ = placed
        corners.append((x + rgba.shape[1] // 2, y + rgba.shape[0] // 2))
    centres = np.array(corners)
    assert centres.min() >= 0
    assert centres.max(0).tolist() <= [100, 200]
    np.testing.assert_allclose(centres.mean(0), [50, 100], rtol=0.08)
    np.testing.assert_allclose(centres.std(0), np.array([100, 200]) / np.sqrt(12), rtol=0.08)


def test_as_it_lies_at_scale_one_is_the_source_itself(small) -> None:
    """With a jitter that changes nothing, a pasted training instance has its own pixels, mask and place."""
    known = small.annotations
    images = TrainingImages(known, small.paths.images)
    pool = small.facts.instance_pool()
    annotation = int(np.argmax(known.areas))
    source = images.read(int(known.annotation_images[annotation]))
    config = replace(small.config(None).data, size=max(source.shape), scale_min=1.0, scale_max=1.0, flip=False)
    done = Paster(pool, images, KNOWN, config)
    row = np.array([annotation])
    draw = Draw(rows=row, rules=PasteRule.AS_IT_LIES, categories=pool.categories[row])
    pasted, shown, _ = done.paste(np.zeros_like(source), [], draw, np.random.default_rng(0))
    (instance,) = shown
    mask = rasterise(known, annotation)
    x0, y0, x1, y1 = instance.extent
    assert (instance.mask == mask[y0:y1, x0:x1]).all()
    assert instance.mask.sum() == mask.sum()
    assert (pasted == source * mask[..., None]).all()
    assert instance.label == known.annotation_categories[annotation]


def test_a_training_instance_pasted_anywhere(small) -> None:
    images = TrainingImages(small.annotations, small.paths.images)
    cutout = annotated_cutout(images, AnnotationSource(int(small.annotations.annotation_images[3]), 3))
    assert cutout is not None
    assert (cutout.rgba[..., 3] > 0).sum() == rasterise(small.annotations, 3).sum()
    done = Paster(small.facts.instance_pool(), images, area_statistics(small.annotations), small.config(None).data)
    draw = Draw(rows=np.array([3]), categories=small.annotations.annotation_categories[3:4].astype(np.int64))
    _, shown, _ = done.paste(np.zeros((128, 128, 3), np.uint8), [], draw, np.random.default_rng(0))
    assert len(shown) == 1


def test_area_statistics_by_definition(small, tmp_path: Path) -> None:
    known = small.annotations
    measured = area_statistics(known)
    for category in (0, 5):
        own = known.annotation_categories == category
        image = known.annotation_images[own]
        root = np.sqrt(known.boxes[own, 2] * known.boxes[own, 3] / (known.heights[image] * known.widths[image]))
        assert measured.mean[category] == pytest.approx(root.mean())
        assert measured.std[category] == pytest.approx(root.std())
    path = tmp_path / "areas.json"
    path.write_text('{"2": [0.25, 0.1, 7]}')
    read = area_statistics(known, path)
    assert (read.has(0), read.has(1), read.has(2)) == (False, True, False)
    assert (read.mean[1], read.std[1]) == (0.25, 0.1)


def test_the_published_statistics_come_with_the_package(small) -> None:
    published = statistics_file("lvis_v1")
    read = area_statistics(small.annotations, published)
    assert len(read.mean) == 1203
    assert not np.isnan(read.mean).any()
    assert (read.mean[0], read.std[0]) == pytest.approx((0.068038, 0.041130), abs=1e-6)
    assert statistics_file(None) is None
    assert statistics_file("own/areas.json") == Path("own/areas.json")
    config = compose(["data=lvis_v1", "method=xpaste"]).config
    assert statistics_file(config.data.area_statistics) == published


def test_pasted_sizes_on_real_annotations_are_those_of_the_published_rule() -> None:
    """Mean side of what is pasted, over the categories of 100 real LVIS images, within 2 %."""
    known = read_json(Path(__file__).parents[1] / "evaluate" / "lvis_val_100.json")
    by_category: dict[int, list[float]] = {}
    for category, image, (_, _, w, h) in zip(
        known.annotation_categories.tolist(), known.annotation_images.tolist(), known.boxes.tolist(), strict=True
    ):
        share = w * h / (int(known.heights[image]) * int(known.widths[image]))
        by_category.setdefault(category, []).append(share**0.5)
    ours = area_statistics(known)
    rng = np.random.default_rng(0)
    meant, pasted = [], []
    for category, roots in by_category.items():
        for _ in range(40):
            share = np.clip(rng.normal(np.mean(roots), np.std(roots)), 10 / 640, 0.5)
            meant.append(share * np.sqrt(640 * 480))
            size = area_size((100, 80), (640, 480), ours.mean[category], ours.std[category], rng)
            pasted.append(np.nan if size is None else np.sqrt(size[0] * size[1]))
    assert len(by_category) > 150
    assert np.isfinite(pasted).mean() > 0.97
    assert np.nanmean(pasted) == pytest.approx(np.mean(meant), rel=0.02)
    assert np.nanmean(ours.mean) == pytest.approx(np.mean([np.mean(roots) for roots in by_category.values()]))


@pytest.mark.parametrize("content", ['{"a": [1, 2]}', '{"1": 3}', "[]", '{"0": [1, 2]}', "{"])
def test_bad_area_statistics(small, content: str, tmp_path: Path) -> None:
    path = tmp_path / "areas.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"areas\.json"):
        area_statistics(small.annotations, path)
