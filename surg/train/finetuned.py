"""`best_vjepa2_finetuned.pth`: stage 1's result in the form that the integration guide loads."""

from pathlib import Path
from typing import Any

import torch

from surg.model.config import EncoderConfig
from surg.model.world import SurgicalActionConditionedWorldModel
from surg.runs import atomic_file
from surg.train.build import merge_lora
from surg.train.trainee import Trainee

NAME = "best_vjepa2_finetuned.pth"


def write_finetuned(path: Path, trainee: Trainee, epoch: int, loss: float, step_s: float) -> None:
    """Write `epoch`, `loss`, `config`, `full_model_state_dict`; `SurgicalActionConditionedWorldModel(**config)` takes it whole.

    The encoder is the trained one. The action-conditioned predictor is the run's own where it trained one (stage 2), else fresh: stage 1
    sees no actions. `predictor` holds stage 1's masked-latent predictor beside it.
    """
    encoder = trainee.encoder
    if any("lora_" in name for name, _ in encoder.named_parameters()):
        encoder = merge_lora(encoder)
    shape: Any = encoder.config
    model = SurgicalActionConditionedWorldModel(
        encoder_dim=shape.embed_dim, encoder=shape, **{"step_s": step_s, **_world_shape(trainee, shape)}
    )
    model.encoder.load_state_dict(encoder.state_dict())
    if "world" in trainee.heads:
        model.world.load_state_dict(trainee.heads["world"].state_dict())
    content: dict[str, Any] = {
        "epoch": epoch,
        "loss": loss,
        "config": model.config,
        "full_model_state_dict": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
    }
    if trainee.predictor is not None:
        content["predictor"] = {name: tensor.detach().cpu() for name, tensor in trainee.predictor.state_dict().items()}
    with atomic_file(path) as file:
        torch.save(content, file)


def _world_shape(trainee: Trainee, shape: EncoderConfig) -> dict[str, Any]:
    if "world" not in trainee.heads:
        # As wide as the encoder, so that every width splits into its heads.
        return {"predictor_dim": shape.embed_dim, "predictor_depth": 6, "predictor_heads": shape.num_heads}
    found: Any = trainee.heads["world"].config
    return {
        "predictor_dim": found.width,
        "predictor_depth": found.depth,
        "predictor_heads": found.num_heads,
        "action_dim": found.action_dim,
        "state_dim": found.state_dim,
        "extrinsics_dim": found.extrinsics_dim,
        "rope_grid": found.rope_grid,
        "step_s": found.step_s,
        "mlp_ratio": found.mlp_ratio,
    }
