"""`harness data`: its commands' words on the command line. Each imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harness.data.pool.numbering import Numbering

app = typer.Typer(help="Datasets and instance pools: check, index, look at.", no_args_is_help=True)

OfDataset = Annotated[
    str | None, typer.Option("--data", help="The dataset whose categories a pool by name, synset or id means.")
]
PoolOut = Annotated[Path, typer.Option("--out", help="The pool to write: .json, .arrow or .parquet.")]


@app.command("check")
def data_check(
    overrides: Annotated[list[str] | None, typer.Argument(help="Which dataset: data=lvis_v1 data.root=FOLDER.")] = None,
) -> None:
    """Whether a dataset's files are there and whole, and what to download where. Exit code 1 when one is not."""
    from harness.commands.data_check import check_dataset
    from harness.compose import compose

    findings = check_dataset(compose(overrides or []).config.data)
    typer.echo(findings)
    raise typer.Exit(0 if findings.complete else 1)


@app.command("show")
def data_show(
    name: Annotated[str | None, typer.Argument(help="A dataset, such as mini or lvis_v1.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Show what this method makes of images.")] = None,
    n: Annotated[int, typer.Option("--n", help="How many images.")] = 12,
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("contact_sheet.png"),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="An override such as data.pool=clean.")] = None,
) -> None:
    """A contact sheet: images with masks and pool instances, or images as a method augments them."""
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
    pool: Annotated[Path, typer.Argument(help="The pool's published JSON, an Arrow index or Parquet.")],
    out: Annotated[Path | None, typer.Option("--out", help="The index to write; beside the pool without it.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes; all cores without it.")] = None,
    dataset: OfDataset = None,
) -> None:
    """Verify every image of a pool and write its memory-mapped index; goes on where it was when started again."""
    from harness.commands.data_index_pool import index_pool

    typer.echo(index_pool(pool, out, workers, _numbering(dataset)))


@app.command("export")
def data_export(
    pool: Annotated[Path, typer.Argument(help="The pool: published JSON, an Arrow index or Parquet.")],
    out: Annotated[Path, typer.Argument(help="The .parquet to write.")],
    dataset: OfDataset = None,
) -> None:
    """Write a pool with all its columns as Parquet, which other tools read and `data.pool=` takes."""
    from harness.commands.data_export import export_pool

    typer.echo(export_pool(pool, out, _numbering(dataset)))


@app.command("make-pool")
def data_make_pool(
    pictures: Annotated[Path, typer.Argument(help="A folder with one folder of pictures a category.")],
    out: Annotated[Path, typer.Option("--out", help="The pool to write, NAME.json.")],
    masks: Annotated[
        list[Path] | None,
        typer.Option("--masks", help="Masks, laid out and named alike; repeat for several a picture."),
    ] = None,
    by: Annotated[str, typer.Option("--by", help="What the folders are: name, synset, lvis_id or index.")] = "name",
    similarity: Annotated[Path | None, typer.Option("--similarity", help="DiverGen's CSV of similarities.")] = None,
) -> None:
    """A pool of a folder of pictures with masks; results.json beside the masks gives CLIP scores and areas.

    What is known of each instance goes into NAME.columns.csv: category and path as they stand in NAME.json, then
    clip_score (percent), area_fraction (0..1), inter_similarity, generator, prompt_id, or columns of your own.
    """
    from harness.commands.data_pools import make_pool

    typer.echo(make_pool(pictures, masks or [], out, by, similarity))


@app.command("merge-pools")
def data_merge_pools(
    pools: Annotated[list[Path], typer.Argument(help="Pools of any format.")], out: PoolOut, dataset: OfDataset = None
) -> None:
    """One pool of several, with the columns of all."""
    from harness.commands.data_pools import merge_pools

    typer.echo(merge_pools(pools, out, _numbering(dataset)))


@app.command("subset-pool")
def data_subset_pool(
    pool: Annotated[Path, typer.Argument(help="A pool of any format.")],
    out: PoolOut,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="COLUMN>=VALUE, <= or =; such as generator=sd. Repeat it.")
    ] = None,
    per_category: Annotated[int | None, typer.Option("--per-category", help="At most so many, at random.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is random.")] = 0,
    dataset: OfDataset = None,
) -> None:
    """A part of a pool: by its columns, and so many of each category."""
    from harness.commands.data_pools import subset_pool

    typer.echo(subset_pool(pool, out, _numbering(dataset), where or [], per_category, seed))


@app.command("pack-pool")
def data_pack_pool(
    pool: Annotated[Path, typer.Argument(help="A pool of any format.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, FILE.zip.")],
    dataset: OfDataset = None,
) -> None:
    """Write a pool and its images into one file, for file systems that hate small files: data.pool=FILE.zip."""
    from harness.commands.data_pools import pack_pool

    typer.echo(pack_pool(pool, out, _numbering(dataset)))


@app.command("score-pool")
def data_score_pool(
    pool: Annotated[Path, typer.Argument(help="A pool of any format.")],
    weights_file: Annotated[Path, typer.Option("--weights", help="The CLIP model's weights, a local file.")],
    out: PoolOut,
    model: Annotated[str, typer.Option("--model", help="open_clip's name of the model.")] = "ViT-L-14-quickgelu",
    dataset: Annotated[str, typer.Option("--data", help="The dataset whose category names are asked for.")] = "lvis_v1",
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """Score every instance by CLIP as X-Paste does, into the column clip_score; takes `pip install open_clip_torch`."""
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
    overrides: Annotated[list[str], typer.Argument(help="Which pool of which dataset: data=mini data.pool=clean.")],
    out: Annotated[Path | None, typer.Option("--out", help="Plots them into this PNG or SVG.")] = None,
) -> None:
    """What a pool holds: instances by category, frequency group and generator, CLIP scores, areas."""
    from harness.commands.data_pool_stats import pool_stats
    from harness.compose import compose
    from harness.data.dataset import Dataset

    dataset = Dataset(compose(overrides).config.data)
    typer.echo(pool_stats(dataset.pool, dataset.facts, dataset.train.category_names, out))
