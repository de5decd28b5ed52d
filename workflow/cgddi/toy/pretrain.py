"""Rebuild the toy base model: ``cgddi toy-model --output config/toy/model`` (an hour on two idle cores).

Stopped and started again with the same options it goes on and gives the same bytes; with more --steps it goes on from where the
shorter training began to lower its learning rate.

Generic corpus -> tokenizer -> autoencoder (closed form, fine-tuned) -> latents -> U-Net and text encoder ->
a diffusers folder of float16 safetensors with a recipe.json beside it.
"""

import argparse
import copy
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from cgddi.core.archive import file_sha256
from cgddi.core.arguments import command_parser
from cgddi.job.checkpoint import Checkpoint
from cgddi.toy import autoencoder, denoising
from cgddi.toy.corpus import build_corpus, vocabulary
from cgddi.toy.measure import HELD_OUT_SEED, measure

CORPUS_SEED_OFFSET = 1_000_003
AUTOENCODER_SEED_OFFSET = 5
"""Added to the model's seed, these give the seeds of the two corpora."""
AUTOENCODER_CORPUS = 4000
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "scipy")


def save_half(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write a pipeline as float16 safetensors that load as float32 unless asked otherwise; it stays as it is itself."""
    halves = {name: copy.deepcopy(getattr(pipeline, name)).half() for name in ("vae", "unet", "text_encoder")}
    parts = {**pipeline.components, **halves}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("*/*.safetensors"):
        path.chmod(0o644)
    for path in [folder / "model_index.json", *folder.glob("*/config.json")]:
        config = json.loads(path.read_text())
        for key in ("_name_or_path", "dtype", "torch_dtype"):
            config.pop(key, None)
        if path.parent.name == "text_encoder":
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("toy-model", __doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write (ordinary diffusers layout)")
    parser.add_argument(
        "--state", type=Path, default=Path(".cache/toy-model"), help="folder of states (default: .cache/toy-model)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=9000, help="pretraining steps of U-Net and text encoder")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--autoencoder-steps", type=int, default=1200, help="fine-tuning steps of the autoencoder")
    parser.add_argument("--corpus", type=int, default=30_000, help="photos in the corpus")
    parser.add_argument("--figures", type=int, default=32, help="samples per measured figure; 0 skips measuring")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--compile", action="store_true", help="compile the U-Net with torch.compile (needs a C++ compiler)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="CPU threads of torch, and processes that draw the corpus"
    )
    return parser


Log = Callable[[str], None]


def _facts(args: argparse.Namespace) -> dict[str, object]:
    """What the numbers of a rebuild depend on, but for its length."""
    given = {name: getattr(args, name) for name in ("seed", "corpus", "autoencoder_steps", "device", "threads")}
    return {**given, "compiled": args.compile}


def _train_autoencoder(args: argparse.Namespace, log: Log) -> AutoencoderKL:
    """The autoencoder, on a small corpus of its own; taken from its state where it was trained before."""
    checkpoint = Checkpoint(args.state, "autoencoder", [_facts(args), _versions()])
    torch.manual_seed(args.seed)
    model = autoencoder.new_autoencoder()
    if saved := checkpoint.load():
        model.load_state_dict(saved[0])
        log("autoencoder: trained before")
        return model.to(args.device).eval()
    corpus = build_corpus(min(AUTOENCODER_CORPUS, args.corpus), args.seed + AUTOENCODER_SEED_OFFSET, args.threads)
    images, lesions = torch.from_numpy(corpus.images), torch.from_numpy(corpus.lesions)
    autoencoder.closed_form(model, autoencoder.to_signal(images[:512]))
    model.to(args.device)
    log(f"autoencoder, closed form: {autoencoder.reconstruction_psnr(model, images[-256:]):.2f} dB")
    generator = torch.Generator().manual_seed(args.seed + 1)
    autoencoder.finetune(
        model,
        images,
        lesions,
        args.autoencoder_steps,
        generator,
        report=lambda step, psnr: log(f"autoencoder {step}: {psnr:.2f} dB"),
    )
    autoencoder.standardise(model, images[:1024])
    checkpoint.save(model.state_dict(), {})
    return model.eval()


def build(args: argparse.Namespace) -> dict:
    """Build the model as ``args`` (see ``--help``) say, write it to ``args.output`` and return its recipe."""
    start = time.time()

    def log(message: str) -> None:
        print(f"[{time.time() - start:7.1f} s] {message}", flush=True)

    torch.set_num_threads(args.threads)
    vae = _train_autoencoder(args, log)
    held_out = torch.from_numpy(build_corpus(min(256, args.corpus), HELD_OUT_SEED).images)
    psnr = autoencoder.reconstruction_psnr(vae, held_out)
    log(f"autoencoder: {psnr:.2f} dB on held-out photos")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = denoising.build_tokenizer(vocabulary(), Path(folder))
    torch.manual_seed(args.seed)
    text_encoder, unet = denoising.new_text_encoder(tokenizer).to(args.device), denoising.new_unet().to(args.device)
    settings = denoising.Settings(steps=args.steps, batch_size=args.batch_size, warmup=min(100, args.steps))
    same = [_facts(args), settings.shared(), _versions()]
    denoising.Pretraining(
        unet,
        text_encoder,
        denoising.new_scheduler(),
        _examples(args, vae, tokenizer, log),
        settings,
        torch.Generator().manual_seed(args.seed + 2),
        Checkpoint(args.state, "steady", same),
        Checkpoint(args.state, "cooling", [*same, args.steps]),
        compiled=args.compile,
    ).run(lambda step, loss: log(f"pretraining {step}/{args.steps}: loss {loss:.4f}"))
    parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "unet": unet}
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    save_half(StableDiffusionPipeline(**parts, scheduler=denoising.new_scheduler(), **none), args.output)
    facts = {"command": _command(args), **_facts(args), "pretraining": asdict(settings)}
    recipe = finish(args.output, facts, psnr, args.figures, args.device)
    log(f"figures: {json.dumps(recipe['figures'])}")
    return recipe


def _examples(args: argparse.Namespace, vae: AutoencoderKL, tokenizer, log: Log) -> denoising.Examples:
    """The corpus as the denoiser sees it; made anew in every run, since it takes two minutes and is the same each time."""
    corpus = build_corpus(args.corpus, args.seed + CORPUS_SEED_OFFSET, args.threads)
    log(f"corpus of {len(corpus)} photos")
    latents = autoencoder.encode_all(vae, torch.from_numpy(corpus.images))
    log("latents ready")
    tokens, empty = denoising.tokenise(tokenizer, corpus.captions), denoising.tokenise(tokenizer, [""])[0]
    return denoising.Examples(latents, tokens, empty)


def _command(args: argparse.Namespace) -> str:
    """The command that rebuilds the model."""
    defaults = vars(_parser().parse_args(["--output", "."]))
    names = ("seed", "steps", "batch_size", "autoencoder_steps", "corpus", "device", "threads")
    given = [
        f"--{name.replace('_', '-')} {getattr(args, name)}" for name in names if getattr(args, name) != defaults[name]
    ]
    return " ".join(["cgddi toy-model", *given, *(["--compile"] if args.compile else [])])


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def finish(folder: Path, facts: dict, psnr: float, samples: int, device: str = "cpu") -> dict:
    """Measure a saved model with ``samples`` photos per figure (0: do not) and write its recipe.json; returns the recipe.

    ``facts`` are the settings it was made with and ``psnr`` its autoencoder's, in dB.
    """
    denoising.build_tokenizer(
        vocabulary(), folder / "tokenizer"
    )  # vocab.json and merges.txt too, for tools that read those
    figures: dict[str, object] = {"autoencoder_psnr_db": round(psnr, 2)}
    if samples:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
        figures.update(measure(pipeline, samples))
    recipe = {
        "what": "toy base model: Stable-Diffusion-shaped, 64 px, of a generic procedural corpus without any toy disease",
        **facts,
        "versions": _versions(),
        "sha256": {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*.safetensors"))},
        "figures": figures,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    return recipe


def main(argv: list[str] | None = None) -> int:
    """Command line of ``cgddi toy-model``; returns the exit status."""
    args = _parser().parse_args(argv)
    if (
        min(args.steps, args.corpus, args.batch_size, args.threads) < 1
        or args.autoencoder_steps < 0
        or args.figures < 0
    ):
        _parser().error("counts must be positive")
    build(args)
    return 0
