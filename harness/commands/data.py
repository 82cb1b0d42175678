"""The command line of `harness data`. Each command imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.data.pool.numbering import Numbering

app = typer.Typer(help="Check, index and view datasets and instance pools.", no_args_is_help=True)

OfDataset = Annotated[
    str | None, typer.Option("--data", help="Dataset whose names, synsets or ids the pool uses for categories.")
]
PoolOut = Annotated[Path, typer.Option("--out", help="Pool to write: .json, .arrow or .parquet.")]


@app.command("check")
def data_check(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="The dataset, such as data=lvis_v1 data.root=FOLDER.")
    ] = None,
) -> None:
    """Check that a dataset's files are complete, and say where to get missing ones. Exits with 1 if any are missing."""
    from harness.commands.data_check import check_dataset
    from harness.compose import compose

    findings = check_dataset(compose(overrides or []).config.data)
    typer.echo(findings)
    raise typer.Exit(0 if findings.complete else 1)


@app.command("show")
def data_show(
    name: Annotated[str | None, typer.Argument(help="A dataset, such as mini or lvis_v1.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Show images as this method augments them.")] = None,
    n: Annotated[int, typer.Option("--n", help="Number of images.")] = 12,
    out: Annotated[Path, typer.Option("--out", help="PNG file to write.")] = Path("contact_sheet.png"),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="An override such as data.pool=clean.")] = None,
) -> None:
    """Draw a contact sheet: images with masks and pool instances, or images as a method augments them."""
    from harness.commands.data_show import show_dataset, show_method
    from harness.compose import compose

    chosen = [f"data={name}"] if name else []
    config = compose([*chosen, *([f"method={method}"] if method else []), *(overrides or [])]).config
    if method:
        show_method(config, n, out)
    else:
        show_dataset(config.data, n, out)
    typer.echo(out)


@app.command("index-pool")
def data_index_pool(
    pool: Annotated[Path, typer.Argument(help="Pool in the published JSON format, as an Arrow index or as Parquet.")],
    out: Annotated[Path | None, typer.Option("--out", help="Index to write; beside the pool by default.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Number of processes; one per core by default.")
    ] = None,
    dataset: OfDataset = None,
) -> None:
    """Verify every image of a pool and write its memory-mapped index. Resumes after an interruption."""
    from harness.commands.data_index_pool import index_pool

    typer.echo(index_pool(pool, out, workers, _numbering(dataset)))


@app.command("export")
def data_export(
    pool: Annotated[Path, typer.Argument(help="Pool in the published JSON format, as an Arrow index or as Parquet.")],
    out: Annotated[Path, typer.Argument(help="The .parquet file to write.")],
    dataset: OfDataset = None,
) -> None:
    """Write a pool with all its columns as Parquet, for other tools and for `data.pool=`."""
    from harness.commands.data_export import export_pool

    typer.echo(export_pool(pool, out, _numbering(dataset)))


@app.command("make-pool")
def data_make_pool(
    pictures: Annotated[Path, typer.Argument(help="Folder with one subfolder of images per category.")],
    out: Annotated[Path, typer.Option("--out", help="Pool to write, NAME.json.")],
    masks: Annotated[
        list[Path] | None,
        typer.Option("--masks", help="Folder of masks with the same layout and names; repeat for several per image."),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", help="What the subfolders are named by: name, synset, lvis_id or index.")
    ] = "name",
    similarity: Annotated[Path | None, typer.Option("--similarity", help="DiverGen's CSV of similarities.")] = None,
) -> None:
    """Make a pool from a folder of images with masks. CLIP scores and areas come from results.json beside the masks.

    NAME.columns.csv describes each instance: category and path as in NAME.json, then clip_score (percent),
    area_fraction (0..1), inter_similarity, generator, prompt_id, or columns of your own.
    """
    from harness.commands.data_pools import make_pool

    typer.echo(make_pool(pictures, masks or [], out, by, similarity))


@app.command("merge-pools")
def data_merge_pools(
    pools: Annotated[list[Path], typer.Argument(help="Pools in any format.")], out: PoolOut, dataset: OfDataset = None
) -> None:
    """Merge pools into one that has the columns of all."""
    from harness.commands.data_pools import merge_pools

    typer.echo(merge_pools(pools, out, _numbering(dataset)))


@app.command("subset-pool")
def data_subset_pool(
    pool: Annotated[Path, typer.Argument(help="Pool in any format.")],
    out: PoolOut,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="Condition such as generator=sd or clip_score>=21; repeatable.")
    ] = None,
    per_category: Annotated[
        int | None, typer.Option("--per-category", help="Limit of instances per category, chosen at random.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random choice.")] = 0,
    dataset: OfDataset = None,
) -> None:
    """Select part of a pool, by its columns and by a limit per category."""
    from harness.commands.data_pools import subset_pool

    typer.echo(subset_pool(pool, out, _numbering(dataset), where or [], per_category, seed))


@app.command("pack-pool")
def data_pack_pool(
    pool: Annotated[Path, typer.Argument(help="Pool in any format.")],
    out: Annotated[Path, typer.Option("--out", help="File to write, FILE.zip.")],
    dataset: OfDataset = None,
) -> None:
    """Pack a pool and its images into one file, for file systems that are slow with small files: data.pool=FILE.zip."""
    from harness.commands.data_pools import pack_pool

    typer.echo(pack_pool(pool, out, _numbering(dataset)))


@app.command("score-pool")
def data_score_pool(
    pool: Annotated[Path, typer.Argument(help="Pool in any format.")],
    weights_file: Annotated[Path, typer.Option("--weights", help="Local file with the CLIP model's weights.")],
    out: PoolOut,
    model: Annotated[str, typer.Option("--model", help="Name of the model in open_clip.")] = "ViT-L-14-quickgelu",
    dataset: Annotated[str, typer.Option("--data", help="Dataset whose category names to score against.")] = "lvis_v1",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """Score every instance with CLIP, as X-Paste does, into the column clip_score. Needs open_clip_torch."""
    from harness.commands.data_score_pool import open_clip_encoder, score_pool
    from harness.compose import compose
    from harness.data.dataset import Dataset

    known = Dataset(compose([f"data={dataset}"]).config.data).train
    typer.echo(score_pool(pool, out, known, open_clip_encoder(model, weights_file, device)))


def _numbering(dataset: str | None) -> Numbering | None:
    from harness.compose import compose
    from harness.data.dataset import Dataset
    from harness.data.pool.numbering import Numbering

    return Numbering(Dataset(compose([f"data={dataset}"]).config.data).train) if dataset else None


@app.command("pool-stats")
def data_pool_stats(
    overrides: Annotated[
        list[str], typer.Argument(help="The pool and its dataset, such as data=mini data.pool=clean.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="PNG or SVG file to draw the plots to.")] = None,
) -> None:
    """Show what a pool holds: instances by category, frequency group and generator, CLIP scores and areas."""
    from harness.commands.data_pool_stats import pool_stats
    from harness.compose import compose
    from harness.data.dataset import Dataset

    dataset = Dataset(compose(overrides).config.data)
    typer.echo(pool_stats(dataset.pool, dataset.facts, dataset.train.category_names, out))
