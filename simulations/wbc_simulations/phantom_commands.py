"""Commands of `wbc-simulate` about in-silico cells: as images, as a start for networks, beside real cells."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated

import typer

from wbc_simulations.options import Json, Study

if TYPE_CHECKING:
    from wbc_common.study import ImageSettings

Domain = Annotated[list[str] | None, typer.Option(help="blend only these in-silico domains")]
Blends = Annotated[int, typer.Option(min=0, help="blended domains; 0: the domains as they are")]
Cells = Annotated[int, typer.Option(min=1000, help="in-silico cells in all")]
Epochs = Annotated[int, typer.Option(min=1)]
Seed = Annotated[int, typer.Option(min=0)]
Size = Annotated[int | None, typer.Option("--size-px", help="as in images.size_px, whose default it has")]
NuclearStain = Annotated[float | None, typer.Option(help="as in images.nuclear_stain, whose default it has")]


def render(
    output: Annotated[Path, typer.Argument(help="folder to write: images, manifest.csv, contact.png")],
    study: Study = None,
    size_px: Annotated[int | None, typer.Option(min=24, max=512, help="side of an image; else the study's")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="else that of the study's data")] = None,
) -> None:
    """Write the in-silico cells of an experiment as images, in the manifest layout that clinics use."""
    from wbc_common.errors import SettingError
    from wbc_simulations.experiment import DEFAULT_EXPERIMENT, plan_study, read_experiment
    from wbc_simulations.rendering import CONTACT_SHEET, write_data_set

    experiment = read_experiment(study or DEFAULT_EXPERIMENT)
    if experiment.data.kind != "phantom":
        raise SettingError(
            f"{study} works on real cells: there is nothing to render", remedy="name a study with in-silico clinics"
        )
    size = plan_study(experiment).images.source_px if size_px is None else size_px
    of_data = experiment.data.seed if seed is None else seed
    cells = write_data_set(experiment.data.clinics, output, size_px=size, seed=of_data)
    typer.echo(f"{cells} cells in {output}, to look at: {output / CONTACT_SHEET}")


def pretrain(
    output: Annotated[Path, typer.Argument(help="safetensors file to write")],
    domain: Domain = None,
    blends: Blends = 100,
    cells: Cells = 60_000,
    epochs: Epochs = 20,
    seed: Seed = 0,
    backbone: Annotated[str, typer.Option(help="as in model.backbone")] = "cnn-small",
    size_px: Size = None,
    nuclear_stain: NuclearStain = None,
    batch_size: Annotated[int, typer.Option(help="as in training.batch_size; a GPU is faster with more")] = 64,
) -> None:
    """Train a network on in-silico cells alone, on a GPU where there is one; use it as model.weights."""
    from wbc_simulations.pretrain import Recipe, check_place, other_looks, save_weights
    from wbc_simulations.pretrain import pretrain as train

    images = _image_settings(size_px, nuclear_stain)
    recipe = Recipe("wbc13", tuple(domain or ()), blends, cells, epochs, seed, backbone, batch_size, images)
    check_place(output)
    found = train(
        recipe,
        on_epoch=lambda epoch, loss: typer.echo(f"epoch {epoch} of {epochs}: loss {loss:.3f}"),
        on_rendered=_told_each_tenth(cells),
    )
    save_weights(found.model, recipe.study(), output)
    typer.echo(f"balanced accuracy on unseen in-silico patients, 13 classes: {found.balanced_accuracy:.3f}")
    if others := other_looks(found.model, recipe):
        listed = ", ".join(f"{name} {value:.3f}" for name, value in others.items())
        typer.echo(f"on looks that were left out: {mean(others.values()):.3f} ({listed})")


def rehearsal_cells(
    output: Annotated[Path, typer.Argument(help="safetensors file to write")],
    blends: Annotated[int, typer.Option(min=1, help="blended domains, with one cell of each of 13 classes")] = 100,
    seed: Seed = 1,
) -> None:
    """Make the in-silico cells that clinics rehearse beside their own (training.rehearsal), as they are shipped."""
    from wbc_simulations.pretrain import check_place, write_rehearsal_cells

    check_place(output)
    typer.echo(f"{write_rehearsal_cells(output, blends, seed)} cells in {output}")


def realism(
    data: Annotated[Path, typer.Option(help="folder with a manifest.csv of real cells")],
    domain: Domain = None,
    blends: Blends = 100,
    cells: Cells = 24_000,
    epochs: Epochs = 12,
    size_px: Size = None,
    nuclear_stain: NuclearStain = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many trainings")] = 5,
    as_json: Json = False,
) -> None:
    """Measure in-silico cells against real ones: train on phantoms only, test on each real clinic of 5 classes."""
    from wbc_simulations.pretrain import Recipe
    from wbc_simulations.realism import measure_realism, realism_table

    images = _image_settings(size_px, nuclear_stain)
    recipe = Recipe("wbc5", tuple(domain or ()), blends, cells, epochs, images=images)
    found = measure_realism(data, recipe, range(seeds), on_step=lambda text: typer.echo(text, err=True))
    typer.echo(json.dumps([asdict(clinic) for clinic in found]) if as_json else realism_table(found))


def _told_each_tenth(cells: int) -> Callable[[int], None]:
    """Takes how many of so many cells are rendered, and says it ten times."""
    told = 0

    def tell(rendered: int) -> None:
        nonlocal told
        if 10 * rendered // cells > told:
            told = 10 * rendered // cells
            typer.echo(f"rendered {rendered} of {cells} cells", err=True)

    return tell


def _image_settings(size_px: int | None, nuclear_stain: float | None) -> "ImageSettings":
    """What networks see, by those of a command's options that were given.

    Raises:
        SettingError: a value outside its range.
    """
    from wbc_common.settings.reading import validated
    from wbc_common.study import ImageSettings

    given = {"size_px": size_px, "nuclear_stain": nuclear_stain}
    return validated(ImageSettings, {key: value for key, value in given.items() if value is not None}, "images")
