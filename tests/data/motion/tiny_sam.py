"""SAM 3, SAM 2 and EdgeTAM with a few thousand random weights, saved with their real processors."""

from pathlib import Path
from typing import Any

SIDE = 112
WIDTH = 128


def save_sam3(folder: Path) -> None:
    import torch
    from transformers import (
        CLIPTokenizer,
        Sam2VideoVideoProcessor,
        Sam3ImageProcessor,
        Sam3VideoConfig,
        Sam3VideoModel,
        Sam3VideoProcessor,
    )

    torch.manual_seed(0)
    layer: dict[str, Any] = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 64}
    vit = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 14, "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 56,
    }  # fmt: skip
    vision = {"backbone_config": vit, "fpn_hidden_size": WIDTH, "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]]}
    text = {
        "model_type": "clip_text_model", "vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 32, "projection_dim": 32,
    }  # fmt: skip
    detector = {
        "vision_config": vision, "text_config": text,
        "geometry_encoder_config": layer | {"num_layers": 1}, "detr_encoder_config": layer | {"num_layers": 1},
        "detr_decoder_config": layer | {"num_layers": 1, "num_queries": 3},
        "mask_decoder_config": {"hidden_size": WIDTH, "num_attention_heads": 2},
    }  # fmt: skip
    tracker = {"vision_config": vision} | _memory() | {"memory_attention_rope_feat_sizes": [8, 8]}
    config = Sam3VideoConfig(
        detector_config=detector, tracker_config=tracker, low_res_mask_size=32, score_threshold_detection=0.0, new_det_thresh=0.0,
        hotstart_delay=0, fill_hole_area=0, max_num_objects=4,
    )  # fmt: skip
    Sam3VideoModel(config).save_pretrained(folder)
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    size = {"height": SIDE, "width": SIDE}
    Sam3VideoProcessor(
        image_processor=Sam3ImageProcessor(size=size),
        video_processor=Sam2VideoVideoProcessor(size=size),
        tokenizer=CLIPTokenizer(vocab={word: number for number, word in enumerate(vocabulary)}, merges=[], model_max_length=32),
    ).save_pretrained(folder)


def save_sam2(folder: Path) -> None:
    import torch
    from transformers import Sam2ImageProcessor, Sam2VideoConfig, Sam2VideoModel, Sam2VideoProcessor, Sam2VideoVideoProcessor

    torch.manual_seed(0)
    hiera = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [128, 128],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4],
    }  # fmt: skip
    vision = {
        "backbone_config": hiera, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": WIDTH,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }  # fmt: skip
    config = Sam2VideoConfig(vision_config=vision, **_memory(side=128, patch=16), memory_attention_rope_feat_sizes=[8, 8])
    Sam2VideoModel(config).save_pretrained(folder)
    size = {"height": 128, "width": 128}
    Sam2VideoProcessor(
        image_processor=Sam2ImageProcessor(size=size), video_processor=Sam2VideoVideoProcessor(size=size)
    ).save_pretrained(folder)


def save_edgetam(folder: Path) -> None:
    import torch
    from transformers import (
        EdgeTamVideoConfig,
        EdgeTamVideoModel,
        Sam2ImageProcessor,
        Sam2VideoProcessor,
        Sam2VideoVideoProcessor,
    )

    torch.manual_seed(0)
    # The same kind of backbone as EdgeTAM's, with 8 to 32 channels instead of 48 to 384.
    backbone = {
        "model_type": "timm_wrapper", "architecture": "repvit_m0_9", "num_classes": 2,
        "model_args": {"embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1], "features_only": True, "out_indices": [0, 1, 2, 3]},
    }  # fmt: skip
    vision = {
        "model_type": "edgetam_vision_model", "backbone_config": backbone, "backbone_channel_list": [32, 24, 16, 8],
        "fpn_hidden_size": WIDTH, "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }  # fmt: skip
    shared = _memory(side=128, patch=16)
    del shared["memory_attention_feed_forward_hidden_size"]
    config = EdgeTamVideoConfig(
        vision_config=vision, **shared, memory_attention_mlp_hidden_size=64, memory_attention_rope_feat_sizes=[8, 8],
        memory_attention_rope_k_sizes=[4, 4], perceiver_resampler_num_latents=16, perceiver_resampler_num_latents_2d=16,
        perceiver_resampler_mlp_intermediate_size=32, perceiver_resampler_num_layers=1,
    )  # fmt: skip
    EdgeTamVideoModel(config).save_pretrained(folder)
    size = {"height": 128, "width": 128}
    Sam2VideoProcessor(
        image_processor=Sam2ImageProcessor(size=size), video_processor=Sam2VideoVideoProcessor(size=size)
    ).save_pretrained(folder)


def _memory(side: int = SIDE, patch: int = 14) -> dict[str, Any]:
    return {
        "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": side, "patch_size": patch},
        "mask_decoder_config": {"hidden_size": WIDTH, "num_attention_heads": 2, "mlp_dim": 64, "iou_head_hidden_dim": 64},
        "image_size": side, "memory_attention_hidden_size": WIDTH, "memory_attention_num_layers": 1,
        "memory_attention_num_attention_heads": 1, "memory_attention_feed_forward_hidden_size": 64, "memory_encoder_hidden_size": WIDTH,
        "memory_encoder_output_channels": 64, "mask_downsampler_embed_dim": WIDTH, "memory_fuser_embed_dim": WIDTH,
        "memory_fuser_intermediate_dim": 32,
    }  # fmt: skip
