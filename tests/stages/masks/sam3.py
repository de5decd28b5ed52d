"""A SAM 3 of random weights and tiny size, of the true classes and in the true folder format."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTokenizer, Sam3Config, Sam3ImageProcessor, Sam3Model, Sam3Processor

TOKENIZER = Path(__file__).parents[3] / "config" / "toy" / "model" / "tokenizer"
SIDE = 112


def tiny_config(vocabulary: CLIPTokenizer) -> Sam3Config:
    """A SAM 3 of two image layers and eight queries."""
    part = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vit = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    text = {
        "model_type": "clip_text_model",
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": vocabulary.bos_token_id,
        "eos_token_id": vocabulary.eos_token_id,
        "pad_token_id": vocabulary.pad_token_id,
    }
    return Sam3Config(
        vision_config={
            "backbone_config": vit,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config=text,
        geometry_encoder_config=part,
        detr_encoder_config=part,
        detr_decoder_config={**part, "num_queries": 8},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )


def write_sam3(folder: Path) -> Path:
    """Save one, with weights large enough that photo and prompt matter."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(0)
    model = Sam3Model(tiny_config(tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
        model.detr_decoder.presence_head.layer3.bias.fill_(2.0)
    images = Sam3ImageProcessor(size={"height": SIDE, "width": SIDE}, mask_size={"height": 32, "width": 32})
    model.save_pretrained(folder)
    Sam3Processor(images, tokenizer).save_pretrained(folder)
    return folder
